"""From parameters, ids and identities to what a store is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from urllib.parse import urlsplit

from csi_slayer.config import MountConfig, load_config
from csi_slayer.config.driver import DriverConfig, DriverStore
from csi_slayer.errors import ConfigError
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.buckets import create_bucket, delete_bucket
from csi_slayer.store.observe import NoObserver
from csi_slayer.volumes.identity import Identity
from csi_slayer.volumes.ids import ObjectId
from csi_slayer.volumes.parameters import Authentication, VolumeParameters
from csi_slayer.volumes.stores import StorePool
from csi_slayer.volumes.turns import OWN
from csi_slayer.worker.spec import store_options

_AWS = (".amazonaws.com", ".amazonaws.com.cn")

COMMON_FIELDS = (
    "ca_bundle",
    "verify_tls",
    "proxy",
    "no_proxy",
    "sts_endpoint",
    "request_timeout",
    "connect_timeout",
    "retry_deadline",
    "transfer_threads",
    "max_connections",
)
"""Of the driver's connection, what holds for any service and identity. A list, so that nothing that
is added to a connection is passed on by itself."""

OBJECT_FIELDS = ("storage_class", "encryption", "kms_key_id", "requester_pays", "bucket_owner")
"""What holds for the driver's own service and identity alone: another one may not use its keys."""


@dataclass(frozen=True, slots=True)
class Service:
    """An S3 service, as far as it is not the driver's own."""

    endpoint: str | None = None
    region: str | None = None
    path_style: bool | None = None
    sts_endpoint: str | None = None

    @staticmethod
    def of_parameters(parameters: VolumeParameters) -> Service:
        """For a mount, which has all the parameters."""
        return Service(
            parameters.endpoint, parameters.region, parameters.path_style, parameters.sts_endpoint
        )

    @staticmethod
    def of_id(found: ObjectId) -> Service:
        """For provisioning, which at the volume's deletion has nothing but the id."""
        return Service(found.endpoint, found.region)


def url_of(driver: DriverStore, bucket: str, prefix: str) -> str:
    """The URL of a bucket's prefix; in a local store a bucket is a directory."""
    if driver.local is not None:
        return f"file://{driver.local}/{bucket}/{prefix}".rstrip("/")
    return f"s3://{bucket}/{prefix}"


def store_fields(driver: DriverStore, service: Service, identity: Identity) -> dict[str, object]:
    """Fields of StoreConfig but ``url``. Raises ConfigError.

    Endpoint and region of the volume come first, then those in its secret, then the driver's.
    """
    if driver.local is not None and service.endpoint is not None:
        raise ConfigError("endpoint: the driver's store is a local directory: it has no endpoint")
    fields: dict[str, object] = {name: getattr(driver, name) for name in COMMON_FIELDS}
    secret = identity.secret
    endpoint = service.endpoint or (secret.endpoint if secret else None)
    fields["endpoint"] = endpoint or driver.endpoint
    fields["region"] = service.region or (secret.region if secret else None) or driver.region
    if fields["endpoint"] == driver.endpoint and identity.kind is Authentication.DRIVER:
        fields.update((name, getattr(driver, name)) for name in OBJECT_FIELDS)
    fields["path_style"] = driver.path_style if service.path_style is None else service.path_style
    if service.sts_endpoint is not None:
        fields["sts_endpoint"] = service.sts_endpoint
    elif identity.kind is not Authentication.DRIVER:
        own = None if endpoint == driver.endpoint else _token_service(endpoint)
        fields["sts_endpoint"] = own or driver.sts_endpoint or _token_service(driver.endpoint)
    fields.update(identity.fields)
    # Whatever becomes of its credentials: what is not the driver's is never done as the driver.
    fields["ambient"] = identity.kind is Authentication.DRIVER
    if identity.kind is Authentication.POD and not (fields["role_arn"] or fields["sts_endpoint"]):
        raise ConfigError("authentication is pod: set roleArn to the role that the pod is to have")
    return fields


def _token_service(endpoint: str | None) -> str | None:
    """Where a service other than AWS exchanges tokens: at its own address."""
    host = urlsplit(endpoint or "").hostname or ""
    return None if host.endswith(_AWS) else endpoint


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


class Access:
    """The buckets of one service with one identity: what a call of the controller works with."""

    def __init__(
        self, driver: DriverConfig, pool: StorePool, service: Service, identity: Identity
    ) -> None:
        self._driver = driver
        self._pool = pool
        self._fields = store_fields(driver.store, service, identity)
        self.local = driver.store.local is not None

    @property
    def service(self) -> str:
        """Names the S3 service, to tell it from others; OWN if it is the driver's."""
        endpoint = self._fields["endpoint"]
        return OWN if endpoint == self._driver.store.endpoint else str(endpoint)

    def config(self, bucket: str, prefix: str = "") -> MountConfig:
        """Raises ConfigError."""
        return mount_config(self._driver, url_of(self._driver.store, bucket, prefix), self._fields)

    def store(self, bucket: str, prefix: str = "") -> AbstractAsyncContextManager[ObjectStore]:
        """The open store of a bucket's prefix; it cannot name anything outside of it."""
        return self._pool.use(self.config(bucket, prefix))

    async def make(self, bucket: str, prefix: str = "") -> bool:
        """Make a bucket or, in a local store, a directory; False if it was there."""
        config = self.config(bucket, prefix)
        return await create_bucket(config.store.url, store_options(config, NoObserver()))

    async def remove(self, bucket: str, prefix: str = "") -> None:
        """Delete an empty bucket or, in a local store, a directory; it need not exist."""
        config = self.config(bucket, prefix)
        await self._pool.drop(config)
        await delete_bucket(config.store.url, store_options(config, NoObserver()))
