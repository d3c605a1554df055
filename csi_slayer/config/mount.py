"""The whole configuration of one mount."""

from __future__ import annotations

from typing import Self

from pydantic import Field, ValidationError

from csi_slayer.config.base import Section
from csi_slayer.config.node import (
    CacheConfig,
    FuseConfig,
    LogConfig,
    MetricsConfig,
    TracingConfig,
)
from csi_slayer.config.problems import explain
from csi_slayer.config.store import REVEAL_SECRETS, StoreConfig
from csi_slayer.config.volume import VolumeConfig
from csi_slayer.errors import ConfigError


class MountConfig(Section):
    """One volume as a worker mounts it. Only ``store.url`` has no default."""

    store: StoreConfig
    cache: CacheConfig = Field(default_factory=CacheConfig)
    volume: VolumeConfig = Field(default_factory=VolumeConfig)
    fuse: FuseConfig = Field(default_factory=FuseConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)

    @classmethod
    def from_spec(cls, spec: bytes) -> Self:
        """The configuration that :meth:`to_spec` wrote. Raises ConfigError."""
        try:
            return cls.model_validate_json(spec)
        except ValidationError as error:
            raise ConfigError(explain(cls, error, lambda _: "spec")) from None

    def to_spec(self) -> bytes:
        """JSON with the secrets in it: for a pipe to a worker, never for a file or a log."""
        return self.model_dump_json(context={REVEAL_SECRETS: True}).encode()

    def secrets(self) -> list[str]:
        """The values that must never be written anywhere (for the log's masking)."""
        store = self.store
        values = (store.secret_access_key, store.session_token, store.web_identity_token)
        return [value.get_secret_value() for value in values if value is not None]
