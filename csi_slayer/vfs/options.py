"""What the VFS is told about a volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from csi_slayer.content.options import ContentEvents


@dataclass(frozen=True, slots=True)
class VfsOptions:
    """Times in seconds, sizes in bytes.

    ``metadata_ttl``: how long names and attributes are believed without asking the store.
    ``close_to_open``: ask at every open of a file. ``quota``: None for no limit.
    ``posix``: attributes are read from each object's metadata at its first lookup.
    """

    read_only: bool = False
    zero_upcall: bool = False
    durability: str = "close"
    metadata_ttl: float = 10.0
    negative_ttl: float = 1.0
    close_to_open: bool = False
    quota: int | None = None
    posix: bool = False
    prefetch: bool = True


class VfsEvents(ContentEvents, Protocol):
    """What the VFS reports, for metrics."""

    def hidden_keys(self, count: int) -> None: ...
    def opened(self, passthrough: bool) -> None: ...
