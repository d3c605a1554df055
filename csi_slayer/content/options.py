"""What the content layer is told about a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Durability = Literal["close", "fsync", "writeback"]

SCRATCH = ".slayerfs"
"""Name at the volume's root under which temporary objects live; never shown in listings."""


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """Sizes in bytes, times in seconds.

    ``part_size``: of multipart uploads. ``hydrate_max``: existing objects up to this size are
    fetched whole when opened for writing. ``segment_max``: bytes of a file in one segment.
    ``write_timeout``: how long close or fsync waits for a store that is away before EIO (the
    bytes stay queued). ``posix``: write attributes through to the objects. ``exact_sizes``: the
    catalog learns a file's size at its close, not at its upload (a volume with a quota).
    """

    volume: str
    tenant: str
    durability: Durability = "close"
    part_size: int = 16 << 20
    hydrate_max: int = 64 << 20
    segment_max: int = 16 << 30
    write_timeout: float = 120.0
    posix: bool = False
    exact_sizes: bool = False
    prefetch: bool = True
    readahead_transfers: int = 6
    upload_concurrency: int = 16


class ContentEvents(Protocol):
    """What the content layer reports, for metrics."""

    def cache_read(self, hit: int, miss: int) -> None: ...
    def conflict(self, key: str) -> None: ...
