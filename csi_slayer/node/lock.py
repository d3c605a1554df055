"""The lock of a volume's state: held by its supervisor and its worker, so by whoever serves it.

An open file description lock (fcntl(2), F_OFD_SETLK): it is inherited with the descriptor, lasts
until the last process that has it is gone, and can be asked for without taking it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi0q")
"""struct flock: type, whence, start, length (0: all), pid."""


class Busy(Exception):
    """Somebody else has the volume."""


def _path(state: str) -> str:
    return os.path.join(state, "lock")


def lock_volume(state: str) -> int:
    """Be the only one to serve the volume whose state directory this is.

    Returns the descriptor that holds the lock. Raises Busy, OSError.
    """
    Path(state).mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(_path(state), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except BlockingIOError:
        os.close(fd)
        raise Busy from None
    return fd


def is_locked(state: str) -> bool | None:
    """Whether some process serves the volume; None if it never had a lock here."""
    try:
        fd = os.open(_path(state), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, wanted)
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)
