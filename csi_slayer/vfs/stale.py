"""Of which inodes the kernel may have pages that are no longer true."""

from __future__ import annotations

from collections.abc import Callable

from csi_slayer.vfs.marks import MOST, Marks

KEPT = 65536
"""Inodes that are remembered, changed by others while the kernel knows them and not opened since.
When there are more, each inode that there is counts as changed, until it is opened."""


class StalePages:
    """Inodes whose pages, or names if it is a directory, the kernel is to drop at the next open.
    ``next_ino()``: no inode has that number or a greater one yet."""

    def __init__(self, next_ino: Callable[[], int], kept: int = KEPT) -> None:
        self._next_ino = next_ino
        self._kept = kept
        self._inodes: set[int] = set()
        self._told: set[int] = set()
        self._below = 0
        self._dropped = Marks()  # of the numbers below that, all the others are stale

    def add(self, ino: int) -> None:
        """Others have changed it."""
        self._told.discard(ino)
        if ino < self._below:
            self._dropped.discard(ino)
        elif len(self._inodes) < self._kept:
            self._inodes.add(ino)
        elif ino not in self._inodes:
            self.add_all()

    def add_all(self) -> None:
        """Each inode that there is may be one, but for those that this was said of before and that
        were opened since."""
        self._below = self._next_ino()
        self._inodes.clear()

    def forgotten(self, ino: int) -> None:
        """The kernel has nothing of it any more."""
        self._inodes.discard(ino)
        self._told.discard(ino)
        if ino < self._below:
            self._dropped.add(ino)

    def __contains__(self, ino: int) -> bool:
        if ino < self._below:
            return ino >= MOST or ino not in self._dropped
        return ino in self._inodes

    def tell(self, ino: int) -> bool:
        """Whether there is something to tell of its size to who appends to it: not what was told
        since it was changed, however long ago that is."""
        if ino not in self or ino in self._told:
            return False
        if len(self._told) >= self._kept:
            self._told.clear()
        self._told.add(ino)
        return True

    def take(self, ino: int) -> bool:
        """Whether the open that is being answered must have its pages dropped."""
        stale = ino in self
        self.forgotten(ino)
        return stale
