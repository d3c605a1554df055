"""What handlers work with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from csi_slayer.fuse.channel import Reply
from csi_slayer.fuse.reading import FileReader
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import Request


@dataclass(frozen=True, slots=True)
class Served:
    """A file system and what its connection has negotiated."""

    ops: Operations
    reader: FileReader
    setxattr_ext: bool
    attributes_changed: Callable[[int], object]
    """Has the kernel ask for an inode's attributes anew."""


Handler = Callable[[Served, Request, int, memoryview], Coroutine[Any, Any, Reply]]
"""Of a request, its node id and its body. Returns the reply's body."""
