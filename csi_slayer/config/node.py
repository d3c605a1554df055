"""What a mount uses of its machine: cache, FUSE, logs, metrics and traces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from csi_slayer.config.base import Section
from csi_slayer.config.store import check_url
from csi_slayer.config.units import HerePath, Size, expanded
from csi_slayer.errors import ConfigError

_GIB = 2**30
_LARGEST_DEFAULT_CAPACITY = 10 * _GIB
_LEAST_CAPACITY = 2**20


def default_cache_directory() -> Path:
    """``/var/cache/slayerfs`` for root, else the user's cache directory. Raises ConfigError."""
    if os.geteuid() == 0:
        return Path("/var/cache/slayerfs")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slayerfs"
    except RuntimeError:
        raise ConfigError(
            "cache.directory: this user has no home directory: name one, or set HOME"
        ) from None


def default_cache_capacity(directory: Path) -> int:
    """10 GiB, or 80 % of what is free where ``directory`` is (or will be) if that is less. Also
    where nothing is free it is one that can be given: ``min_free`` keeps the cache away then."""
    existing = directory
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        state = os.statvfs(existing)
    except OSError:
        return _LARGEST_DEFAULT_CAPACITY
    room = state.f_bavail * state.f_frsize * 8 // 10
    return max(_LEAST_CAPACITY, min(_LARGEST_DEFAULT_CAPACITY, room))


def _capacity(data: dict[str, Any]) -> int:
    # The directory is absent here when it did not validate; that error is reported anyway.
    return default_cache_capacity(data.get("directory") or default_cache_directory())


class CacheConfig(Section):
    """The node's cache, shared by all volumes that name the same directory."""

    directory: Path = Field(
        default_factory=default_cache_directory,
        description="directory of the cache",
        json_schema_extra={"default_text": "/var/cache/slayerfs for root, else ~/.cache/slayerfs"},
    )
    capacity: Size = Field(
        default_factory=_capacity,
        ge=_LEAST_CAPACITY,
        description="most bytes of cached data",
        json_schema_extra={"default_text": "10GiB, or 80% of the free space if less"},
    )
    min_free: Size = Field(
        default=_GIB, description="space the cache leaves free on its file system"
    )
    segment_max: Size = Field(
        default=4 * _GIB,
        ge=2**20,
        description="largest cached piece of a file; only a file of one piece gets passthrough",
    )
    direct: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="write what is fetched to the disk around the page cache; auto: while that is "
        "dear (little memory to spare) and the disk is fast",
    )

    @field_validator("directory")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        value = expanded(value)
        if not value.is_absolute():
            raise ValueError("expected an absolute path")
        return value


class FuseConfig(Section):
    """How the kernel is spoken to."""

    disable: tuple[str, ...] = Field(
        default=(), description="kernel capabilities not to use, by name; `all` for every one"
    )
    allow_other: bool = Field(
        default_factory=lambda: os.geteuid() == 0,
        description="let other users than the mounting one in",
        json_schema_extra={"default_text": "true for root"},
    )
    engine: Literal["native", "pyfuse3"] = Field(
        default="native",
        description="the project's own engine, or libfuse by pyfuse3, whose mount ends with its "
        "worker",
    )


class LogConfig(Section):
    """Where log lines go."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severity that is logged"
    )
    format: Literal["json", "text"] = Field(default="json", description="one JSON object a line")
    file: HerePath | None = Field(
        default=None, description="file to append to; none: standard error"
    )


class MetricsConfig(Section):
    """Where Prometheus finds this mount."""

    listen: str | None = Field(
        default=None,
        description="host:port or unix:/path of the metrics endpoint; none: not served",
    )

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str | None) -> str | None:
        if value is None or (value.startswith("unix:/") and len(value) > len("unix:/")):
            return value
        host, separator, port = value.rpartition(":")
        if not separator or not host or not port.isascii() or not port.isdigit():
            raise ValueError("expected host:port or unix:/path")
        if int(port) > 65535:
            raise ValueError("the port is out of range")
        return value


class TracingConfig(Section):
    """OpenTelemetry spans; needs the extra ``otel``."""

    endpoint: str | None = Field(
        default=None, description="OTLP/HTTP traces URL of a collector; none: no spans"
    )
    sample_ratio: float = Field(
        default=0.01, ge=0, le=1, description="share of the operations that are traced"
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else check_url(value)
