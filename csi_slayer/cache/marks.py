"""How often segments were opened lately: a byte each, in a file that all processes map.

Opening a segment costs one store into shared memory: no system call, and no inode that must be
written back because somebody read a file. Two segments may share a byte (about one in twenty with
200,000 of them); one of them is then kept a little longer than it should be. Increments of two
processes at the same time may count once. Neither matters to a guess.
"""

from __future__ import annotations

import mmap
import os

from csi_slayer.cache.layout import Layout
from csi_slayer.cache.oserrors import UNREADABLE, read_through

MOST = 3
"""Counting stops here: S3-FIFO does not want to know more."""

_ENTRIES = 1 << 22


class Marks:
    """The counters. Segments are named by 32 hex digits."""

    __slots__ = ("_bytes",)

    def __init__(self, layout: Layout) -> None:
        fd = os.open(layout.marks, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size != _ENTRIES:
                # Allocated, not sparse: a store into a hole of a full disk is a SIGBUS.
                os.posix_fallocate(fd, 0, _ENTRIES)
            try:
                read_through(fd, _ENTRIES)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                os.pwrite(fd, bytes(_ENTRIES), 0)  # the disk puts it elsewhere, if it can
            self._bytes = mmap.mmap(fd, _ENTRIES)
        finally:
            os.close(fd)

    def touch(self, name: str) -> None:
        """The segment was opened."""
        at = int(name[:6], 16) >> 2
        count = self._bytes[at]
        if count < MOST:
            self._bytes[at] = count + 1

    def get(self, name: str) -> int:
        """Openings since the count was last set, at most :data:`MOST`."""
        return min(MOST, self._bytes[int(name[:6], 16) >> 2])

    def set(self, name: str, count: int) -> None:
        self._bytes[int(name[:6], 16) >> 2] = count

    def close(self) -> None:
        self._bytes.close()
