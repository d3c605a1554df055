"""What the content layer is told about a volume."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

Durability = Literal["close", "fsync", "writeback"]

SCRATCH = ".slayerfs"
"""Name at the volume's root under which temporary objects live; never shown in listings."""


@dataclass(slots=True)
class Live:
    """What may be changed while a volume is in use: one object for content and VFS, read at each
    use and copied nowhere. Times in seconds, sizes in bytes.

    ``metadata_ttl``: how long names and attributes are believed without asking the store.
    ``close_to_open``: ask at every open of a file. ``quota``: None for no limit. ``open_wait``:
    how long an open waits for all of a file; None: of a large one, where that is short.
    """

    durability: Durability = "close"
    metadata_ttl: float = 10.0
    negative_ttl: float = 1.0
    close_to_open: bool = False
    quota: int | None = None
    prefetch: bool = True
    open_wait: float | None = None

    def set(self, other: Live) -> None:
        """Take all values over from another one."""
        for each in fields(self):
            setattr(self, each.name, getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """Sizes in bytes, times in seconds.

    ``part_size``: of multipart uploads. ``hydrate_max``: existing objects up to this size are
    fetched whole when opened for writing. ``segment_max``: bytes of a file in one segment.
    ``write_timeout``: how long close or fsync waits for a store that is away before EIO (the
    bytes stay queued). ``posix``: write attributes through to the objects.
    ``readahead_transfers``: readahead requests under way at once.
    """

    volume: str
    tenant: str
    live: Live = field(default_factory=Live)
    part_size: int = 16 << 20
    hydrate_max: int = 64 << 20
    segment_max: int = 16 << 30
    write_timeout: float = 120.0
    posix: bool = False
    readahead_transfers: int = 6


class ContentEvents(Protocol):
    """What the content layer reports, for metrics."""

    def cache_read(self, hit: int, miss: int) -> None: ...
    def conflict(self) -> None: ...
