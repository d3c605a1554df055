"""Mappings of files that, other than Python's own, keep no descriptor of the file open."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
_libc.write.restype = ctypes.c_ssize_t
_libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Memory:
    """``size`` bytes of an open file, shared, for reading and, unless not ``writable``, writing."""

    def __init__(self, fd: int, size: int, *, writable: bool = True) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._size = size
        self._address = _libc.mmap(None, size, protection, mmap.MAP_SHARED, fd, 0)
        assert self._address != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())

    def store(self, data: bytes, offset: int = 0) -> None:
        ctypes.memmove(self._address + offset, data, len(data))

    def write_to(self, fd: int) -> int:
        """write(2) of all of it; returns how many bytes were written."""
        return int(_libc.write(fd, self._address, self._size))

    def close(self) -> None:
        _libc.munmap(self._address, self._size)


@contextmanager
def mapped(path: Path, size: int) -> Iterator[tuple[Memory, int]]:
    """The file mapped, and a descriptor of it, which may be closed within the block."""
    fd = os.open(path, os.O_RDWR)
    memory = Memory(fd, size)
    try:
        yield memory, fd
    finally:
        memory.close()
