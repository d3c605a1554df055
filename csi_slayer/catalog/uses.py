"""What the catalog asks before it takes a name from an inode, and what it tells then."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol

from csi_slayer.catalog.inode import Inode


class Uses(Protocol):
    """Who has what of the volume's files; asked within transactions."""

    def is_open(self, ino: int) -> bool:
        """Whether anybody may still ask for the inode once it has no name."""

    def is_seen(self, ino: int) -> bool:
        """Whether the kernel may know the inode: who works in a directory, or lists it, is not
        told."""

    def is_read(self, ino: int) -> bool:
        """Whether somebody reads the version that it has: another one has to be another inode."""

    def is_settled(self, inode: Inode) -> bool:
        """Whether its staged copy is what the store has of it, and nobody changes it."""

    def changing(self) -> Collection[int]:
        """Inodes that somebody is about to change: what others do to their objects is for the
        upload to find out."""


class Unused:
    """Of a catalog without a file system: nobody has anything."""

    def is_open(self, ino: int) -> bool:
        return False

    def is_seen(self, ino: int) -> bool:
        return False

    def is_read(self, ino: int) -> bool:
        return False

    def is_settled(self, inode: Inode) -> bool:
        return False

    def changing(self) -> Collection[int]:
        return ()


class Gone(NamedTuple):
    """``inode``, as it was, has lost ``name`` in the directory ``parent``, which may be gone as
    well. ``kept``: its row is still there, for who has it open."""

    parent: int
    name: str
    inode: Inode
    kept: bool


class Merged(NamedTuple):
    """``changed``: inodes that have the content of another version now; ``added``: the directory
    has names that it did not have."""

    changed: list[int]
    gone: list[Gone]
    added: bool = False
