"""The whole configuration of one mount."""

from __future__ import annotations

import json
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError

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

    @classmethod
    def understood(cls, spec: bytes | dict[str, Any]) -> Self:
        """A configuration that another version may have written: what this one does not know is
        left out, for going back to an earlier version must not cost a mount. Raises ConfigError."""
        try:
            data = json.loads(spec) if isinstance(spec, bytes) else spec
            return cls.model_validate(_known(cls, data))
        except ValidationError as error:
            raise ConfigError(explain(cls, error, lambda _: "another version's")) from None
        except ValueError as error:
            raise ConfigError(f"configuration of another version: {type(error).__name__}") from None

    def to_spec(self) -> bytes:
        """JSON with the secrets in it: for a pipe to a worker, never for a file or a log."""
        return self.model_dump_json(context={REVEAL_SECRETS: True}).encode()

    def secrets(self) -> list[str]:
        """The values that must never be written anywhere (for the log's masking)."""
        store = self.store
        values = (store.secret_access_key, store.session_token, store.web_identity_token)
        return [value.get_secret_value() for value in values if value is not None]


def _known(model: type[BaseModel], data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    kept = {}
    for name, field in model.model_fields.items():
        if name in data:
            below = field.annotation
            deeper = isinstance(below, type) and issubclass(below, BaseModel)
            kept[name] = _known(below, data[name]) if deeper else data[name]  # type: ignore[arg-type]
    return kept
