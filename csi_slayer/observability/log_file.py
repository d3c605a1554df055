"""A log file that does not grow without end: one older part is kept beside it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Self

LARGEST: Final = 64 << 20
"""Bytes of a log file, after which it begins anew; what there was is ``FILE.1`` then."""


class LogFile:
    """Written to by one thread. Other processes may append to it as well."""

    def __init__(self, fd: int, path: Path | None = None) -> None:
        """``fd`` is closed with this if it is that of a ``path``, and has a limit then."""
        self._fd = fd
        self._path = path
        self._limited = path is not None and stat.S_ISREG(os.fstat(fd).st_mode)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Append to a file that only its owner can read. Raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return cls(os.open(path, flags, 0o600), path)

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        finally:  # of a full disk too: it may be this that fills it
            if self._path is not None and self._limited and os.fstat(self._fd).st_size >= LARGEST:
                self._begin_anew(self._path)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._fd)

    def _begin_anew(self, path: Path) -> None:
        """By a copy, not a rename: whoever else appends goes on in the same file. Raises OSError,
        BlockingIOError where another process is about to do this."""
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            own, named = os.fstat(self._fd), path.stat()
            if own.st_size >= LARGEST and os.path.samestat(own, named):  # not moved by logrotate
                with contextlib.suppress(OSError):  # no room, not readable: it is bounded first
                    real = path.resolve()  # of /dev/stderr: memory is no place for the other
                    _keep(real, real.with_name(f"{real.name}.1"))
                os.truncate(self._fd, 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)


def _keep(path: Path, older: Path) -> None:
    """The end of it, of one that grew while nobody bounded it. Raises OSError, and no part of a
    copy is left."""
    older.unlink(missing_ok=True)  # the room for it first
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with path.open("rb") as source, open(os.open(older, flags, 0o600), "wb") as target:
        source.seek(max(0, path.stat().st_size - 2 * LARGEST))
        try:
            while os.sendfile(target.fileno(), source.fileno(), None, LARGEST):
                pass
        except OSError:
            older.unlink()
            raise
