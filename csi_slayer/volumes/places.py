"""From parameters, ids and identities to what a store is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from csi_slayer.config import MountConfig, load_config
from csi_slayer.config.driver import DriverConfig, DriverStore
from csi_slayer.config.store import Connection
from csi_slayer.errors import ConfigError
from csi_slayer.volumes.identity import IDENTITY_FIELDS, Identity
from csi_slayer.volumes.ids import ObjectId
from csi_slayer.volumes.parameters import VolumeParameters

# Of the driver's connection, what holds for any service that it talks to.
_COMMON_FIELDS = tuple(
    name
    for name in Connection.model_fields
    if name not in (*IDENTITY_FIELDS, "endpoint", "region", "path_style", "web_identity_token")
)


@dataclass(frozen=True, slots=True)
class Service:
    """An S3 service, as far as it is not the driver's own."""

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    sts_endpoint: str | None = None

    @staticmethod
    def of_class(driver: DriverStore, parameters: VolumeParameters) -> Service:
        """What the parameters say; what equals the driver's own is left out."""
        endpoint, region = parameters.endpoint, parameters.region
        return Service(
            endpoint=None if endpoint == driver.endpoint else endpoint,
            region=None if region == driver.region else region,
            path_style=parameters.path_style,
            sts_endpoint=parameters.sts_endpoint,
        )

    @staticmethod
    def of_id(found: ObjectId) -> Service:
        return Service(found.endpoint, found.region)


def url_of(driver: DriverStore, bucket: str, prefix: str) -> str:
    """The URL of a bucket's prefix; in a local store a bucket is a directory."""
    if driver.local is not None:
        return f"file://{driver.local}/{bucket}/{prefix}".rstrip("/")
    return f"s3://{bucket}/{prefix}"


def store_fields(
    driver: DriverStore, service: Service, identity: Identity
) -> dict[str, object]:
    """Fields of StoreConfig but ``url``. Raises ConfigError.

    Endpoint and region of the volume come first, then those in its secret, then the driver's.
    """
    if driver.local is not None and service.endpoint is not None:
        raise ConfigError("endpoint: the driver's store is a local directory: it has no endpoint")
    fields: dict[str, object] = {name: getattr(driver, name) for name in _COMMON_FIELDS}
    secret = identity.secret
    endpoint = service.endpoint or (secret.endpoint if secret else None)
    fields["endpoint"] = endpoint or driver.endpoint
    fields["region"] = service.region or (secret.region if secret else None) or driver.region
    fields["path_style"] = service.path_style
    if service.path_style is None and endpoint in (None, driver.endpoint):
        fields["path_style"] = driver.path_style
    if service.sts_endpoint is not None:
        fields["sts_endpoint"] = service.sts_endpoint
    fields.update(identity.fields)
    return fields


def mount_config(
    driver: DriverConfig,
    url: str,
    store: Mapping[str, object],
    volume: Mapping[str, object] | None = None,
) -> MountConfig:
    """The configuration of a mount of ``url``, with the driver's cache and logs.
    Raises ConfigError."""
    overrides: dict[str, object] = {f"store.{name}": value for name, value in store.items()}
    overrides |= {f"volume.{name}": value for name, value in (volume or {}).items()}
    overrides |= {
        "store.url": url,
        "cache": driver.cache,
        "fuse": driver.fuse,
        "log": driver.log,
        "tracing": driver.tracing,
    }
    return load_config(None, overrides)
