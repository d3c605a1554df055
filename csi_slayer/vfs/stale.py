"""Of which inodes the kernel may have pages that are no longer true."""

from __future__ import annotations

KEPT = 65536
"""Inodes that are remembered. Of more than that, changed by others while the kernel knows them and
not opened since, none can be told from the others any more."""


class StalePages:
    """Inodes whose pages, or names if it is a directory, the kernel is to drop at the next open."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._inodes: set[int] = set()
        self._told: set[int] = set()
        self._too_many = False

    def add(self, ino: int) -> None:
        """Others have changed it."""
        self._told.discard(ino)
        if len(self._inodes) < self._kept:
            self._inodes.add(ino)
        elif ino not in self._inodes:
            self._too_many = True

    def forgotten(self, ino: int) -> None:
        """The kernel has nothing of it any more."""
        self._inodes.discard(ino)
        self._told.discard(ino)

    def tell(self, ino: int) -> bool:
        """Whether there is something to tell of its size to who appends to it: not what was told
        since it was changed, however long ago that is."""
        if ino not in self._inodes or ino in self._told:
            return False
        self._told.add(ino)
        return True

    def take(self, ino: int) -> bool:
        """Whether the open that is being answered must have its pages dropped."""
        stale = ino in self._inodes
        self._inodes.discard(ino)
        self._told.discard(ino)
        return stale or self._too_many
