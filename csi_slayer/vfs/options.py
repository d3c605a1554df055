"""What the VFS is told about a volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from csi_slayer.content.options import ContentEvents, Live


@dataclass(frozen=True, slots=True)
class VfsOptions:
    """``posix``: attributes are read from each object's metadata at its first lookup. ``live`` is
    the content layer's too."""

    read_only: bool = False
    zero_upcall: bool = False
    posix: bool = False
    live: Live = field(default_factory=Live)


class VfsEvents(ContentEvents, Protocol):
    """What the VFS reports, for metrics."""

    def hidden_keys(self, count: int) -> None: ...
    def opened(self, passthrough: bool) -> None: ...
