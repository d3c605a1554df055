"""Volumes on the S3 servers of the test session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.mounts import TestMount
from tests.support.servers import S3Server


def s3_volume(
    server: S3Server,
    bucket: str,
    base: Path,
    *,
    endpoint: str | None = None,
    options: Sequence[str] = (),
    **kwargs: Any,
) -> TestMount:
    """A volume, not mounted yet; ``endpoint`` is that of a proxy in front of the server."""
    return TestMount(
        f"s3://{bucket}",
        base,
        options=[
            f"store.endpoint={endpoint or server.endpoint}",
            f"store.region={server.region}",
            *options,
        ],
        env={
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
        },
        **kwargs,
    )
