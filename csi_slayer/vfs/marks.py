"""Sets of inode numbers that may become large: which inodes the kernel has seen, say."""

from __future__ import annotations

MOST = 1 << 27
"""Inode numbers that have a bit (16 MiB of them); those beyond count as marked."""


class Marks:
    """One bit for each inode number, which the catalog hands out in order. Numbers below ``known``
    count as marked: what an earlier worker has answered is not known."""

    def __init__(self, known: int = 0, most: int = MOST) -> None:
        self._known = known
        self._most = most
        self._bits = bytearray()

    def add(self, ino: int) -> None:
        if not self._known <= ino < self._most:
            return
        at = (ino - self._known) >> 3
        if at >= len(self._bits):
            self._bits.extend(bytes(max(at + 1 - len(self._bits), 1024)))
        self._bits[at] |= 1 << ((ino - self._known) & 7)

    def discard(self, ino: int) -> None:
        """Of no effect where all count as marked."""
        at = (ino - self._known) >> 3
        if self._known <= ino < self._most and at < len(self._bits):
            self._bits[at] &= ~(1 << ((ino - self._known) & 7))

    def __contains__(self, ino: int) -> bool:
        if not self._known <= ino < self._most:
            return True
        at = (ino - self._known) >> 3
        return at < len(self._bits) and bool(self._bits[at] >> ((ino - self._known) & 7) & 1)
