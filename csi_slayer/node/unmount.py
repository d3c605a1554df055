"""Unmounting, without ever touching a path inside the mount."""

from __future__ import annotations

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """umount2(2); a path that is no mount is no error. Raises OSError (EBUSY, EPERM)."""
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(mountpoint), flags) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):
            raise OSError(number, os.strerror(number), mountpoint)
