"""Values that volumes are published with."""

from __future__ import annotations

from typing import Any

from tests.support.servers import S3Server


def s3_store(server: S3Server, **values: Any) -> dict[str, Any]:
    """The ``store`` section for a server; ``values`` replace keys of it."""
    return {
        "endpoint": server.endpoint,
        "region": server.region,
        "access_key_id": server.access_key,
        "secret_access_key": server.secret_key,
        **values,
    }
