"""Disk space for a whole piece before its bytes are written (fallocate(2)).

A write into a hole makes ext4 set room aside for each of its blocks: with the room there, a piece
through the page cache takes a third less processor time (measured, kernel 6.18: 2 GiB in pieces of
512 KiB 0.24 s instead of 0.35 s), and a direct one a quarter less time.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Final

_KEEP_SIZE: Final = 1  # linux/falloc.h, FALLOC_FL_KEEP_SIZE

# Not os.posix_fallocate: where the file system cannot, the C library writes into the file instead,
# where another process may just have put a block.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Extents:
    """``possible``: whether the cache directory's file system can do it, as far as is known."""

    def __init__(self) -> None:
        self.possible = True

    def take(self, fd: int, offset: int, size: int) -> None:
        """Allocate what is not allocated of [offset, offset + size); the bytes there stay the same,
        zeros in a hole. What fails is left to the write that follows."""
        if self.possible and _fallocate(fd, _KEEP_SIZE, offset, size):
            self.possible = ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS)
