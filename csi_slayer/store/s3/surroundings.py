"""What the environment and the AWS configuration files say of the way to a service, as other AWS
tools read them. What is given to the program itself always comes first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from csi_slayer.errors import ConfigError
from csi_slayer.store.options import StoreOptions

_FILES = {
    "AWS_CONFIG_FILE": "~/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
}


@dataclass(frozen=True, slots=True)
class Way:
    """``endpoint`` None: AWS's; ``ca_bundle`` None: the system's authorities; ``setting`` where the
    endpoint was given."""

    endpoint: str | None
    region: str
    ca_bundle: str | None
    setting: str = field(default="endpoint", compare=False)


def find_way(options: StoreOptions, environment: Mapping[str, str] = os.environ) -> Way:
    """Blocking: reads the configuration files where credentials may come from them. Raises
    ConfigError."""
    profile = _Profile(options, environment)
    endpoint, setting = options.endpoint, "endpoint"
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if not endpoint:
            endpoint, setting = environment.get(name), name
    if not endpoint:
        endpoint, setting = profile.endpoint, "endpoint_url of the AWS configuration"
    return Way(
        endpoint=endpoint or None,
        region=options.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.get("region")
        or "us-east-1",
        ca_bundle=options.ca_bundle or environment.get("AWS_CA_BUNDLE") or profile.get("ca_bundle"),
        setting=setting,
    )


class _Profile:
    """What a profile of the AWS configuration files says, read when it is first asked for."""

    def __init__(self, options: StoreOptions, environment: Mapping[str, str]) -> None:
        given = options.credentials
        own = options.anonymous or given.access_key is not None or given.has_token
        files = (environment.get(name) or default for name, default in _FILES.items())
        # botocore is not small: not with a key pair or a token, nor where there is nothing to read.
        self._unread = not own and (
            given.profile is not None
            or bool(environment.get("AWS_PROFILE"))
            or any(os.path.exists(os.path.expanduser(path)) for path in files)
        )
        self._name = given.profile
        self._values: dict[str, Any] = {}
        self._services: dict[str, Any] = {}

    def get(self, key: str) -> str | None:
        self._read()
        value = self._values.get(key)
        return value if isinstance(value, str) and value else None

    @property
    def endpoint(self) -> str | None:
        """That of S3 alone, or else that of all services."""
        self._read()
        service = self._services.get("s3")
        own = service.get("endpoint_url") if isinstance(service, dict) else None
        return str(own) if own else self.get("endpoint_url")

    def _read(self) -> None:
        if not self._unread:
            return
        self._unread = False
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session

        try:
            session = Session(profile=self._name)
            self._values = session.get_scoped_config()
            name = self.get("services")
            self._services = session.full_config.get("services", {}).get(name, {})
        except BotoCoreError as error:
            raise ConfigError(f"AWS configuration: {error}") from error
