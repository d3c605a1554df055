"""What Python's os module leaves out of file systems: which one it is, and fallocate(2) itself
(os.posix_fallocate writes zeros where the file system has none)."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import lru_cache
from typing import Final

EXT4: Final = 0xEF53
"""Magic numbers (linux/magic.h); ext2 and ext3 have ext4's."""
XFS: Final = 0x58465342
BTRFS: Final = 0x9123683E
TMPFS: Final = 0x01021994
RAMFS: Final = 0x858458F6

MEASURING: Final = (EXT4, TMPFS)
"""Those that tell at once, and exactly, by how much a file has grown."""

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""FALLOC_FL_* (linux/falloc.h)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.statfs.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def file_system(file: int | str) -> int:
    """The magic number of the file system that a descriptor's or path's file is on. Raises
    OSError."""
    state = (ctypes.c_long * 32)()  # struct statfs: its first word is the number
    if isinstance(file, int):
        failed = _libc.fstatfs(file, state)
    else:
        failed = _libc.statfs(os.fsencode(file), state)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(state[0] & 0xFFFFFFFF)


@lru_cache
def kind_of(device: int) -> str:
    """The name that the file system on a device was mounted by, which tells ext2, ext3 and ext4
    apart; "" if it is mounted nowhere that this process can see. Raises OSError."""
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            before, _, after = line.partition(b" - ")
            if before.split(b" ", 3)[2] == number.encode():
                return os.fsdecode(after.split(b" ", 1)[0])
    return ""


def allocation_unit(directory: str, otherwise: int) -> int:
    """Bytes that a file with one byte takes there, which nothing else tells, on file systems that
    measure: of ext4 a block or, with bigalloc, a cluster, of tmpfs a page, perhaps a huge one;
    ``otherwise`` on others. Raises OSError."""
    if file_system(directory) not in MEASURING:
        return otherwise
    unit = os.statvfs(directory).f_frsize
    with suppress(OSError):  # no extents, so no clusters either; a full disk
        fd = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            fallocate(fd, 0, 0, 1)
            unit = max(unit, os.fstat(fd).st_blocks * 512)
        finally:
            os.close(fd)
    return unit


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Blocks. Raises OSError, with EOPNOTSUPP where there is no such mode."""
    if _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
