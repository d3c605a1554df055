"""Staged files that programs may have mapped for writing (mmap with MAP_SHARED).

Where a file is passed through, the kernel maps the staged file itself. Two things follow that other
writes do not have. A store into a page that is dirty already changes no mtime, by which a change is
known: so the pages are written back before a file is uploaded, after which the next store into each
is a fault that changes it. And a mapping lives on when the descriptor is closed, and the kernel
does not tell us of its end: so a staged file becomes a segment only when nobody has it open.

Only what is opened for reading and writing can be mapped so.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from csi_slayer.cache import filesystem
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.opened import OpenInode
from csi_slayer.observability.complaints import Complaints

log = structlog.get_logger(__name__)

PAUSE: Final = 1.0
"""Seconds between looks at what is mapped although no descriptor of it is open."""

AT_ONCE: Final = 512
"""Most inodes that are looked at each time."""

_WAIT_WRITE_WAIT: Final = 7  # linux/fs.h, SYNC_FILE_RANGE_WRITE_AND_WAIT
_SET_SIGNAL: Final = 10  # fcntl.h, F_SETSIG

_IN_MEMORY: Final = (filesystem.TMPFS, filesystem.RAMFS)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def tells_of_stores(directory: str) -> bool:
    """Whether a store into a mapped file there changes its mtime sooner or later: in a file system
    in memory, which never writes back, none does. Raises OSError."""
    return filesystem.file_system(directory) not in _IN_MEMORY


def write_back(fd: int) -> None:
    """Write the file's dirty pages to the disk, so that the next store into each changes the
    mtime; not the journal and the disk's own cache, for which fdatasync would wait as well.
    Blocks: call it in a thread. Raises OSError."""
    if _libc.sync_file_range(fd, 0, 0, _WAIT_WRITE_WAIT):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_used_elsewhere(fd: int) -> bool:
    """Whether somebody else has the file open or mapped; ``fd`` must be our only descriptor of it,
    opened for reading and writing.

    The kernel gives a write lease to the only user of a file (fcntl(2), F_SETLEASE); a mapping is
    one. Where the file system gives none, nobody is found.
    """
    try:
        # Who opens the file meanwhile has us told so, by a signal that is ignored unless handled.
        fcntl.fcntl(fd, _SET_SIGNAL, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class Mapped:
    """Staged files that are not open but mapped. ``mappable`` are the inodes to be asked about;
    who turns out not to be mapped is taken out. ``retire(ino)`` uploads a file that was changed,
    and else asks here again."""

    def __init__(
        self,
        mappable: set[int],
        retire: Callable[[int], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._mappable = mappable
        self._retire = retire
        self._spawn = spawn
        self._watched: dict[int, None] = {}
        self._watching = False
        self._complaints = Complaints(log)

    def is_mapped(self, ino: int, path: str, fd: int | None) -> bool:
        """Whether the staged file of an inode without handles is mapped: it is asked about again
        each second then. ``fd``: our only descriptor of it, if there is one."""
        if not _is_used(path, fd):
            self._mappable.discard(ino)
            return False
        if not self._watching:
            self._watching = True
            self._spawn(self._watch())
        self._watched[ino] = None
        return True

    def may_be(self, ino: int, path: str, record: OpenInode | None) -> bool:
        """As :meth:`is_mapped`, also of an inode that has handles. If the kernel has the file open
        itself, nobody can tell whether it is mapped, too."""
        if record is None or record.file is None:
            return self.is_mapped(ino, path, None)
        file = record.file
        if record.backing_id or isinstance(file, CleanFile) or is_used_elsewhere(file.fd):
            return True
        self._mappable.discard(ino)
        return False

    async def _watch(self) -> None:
        """Nobody tells of stores into a mapping whose file was closed, nor of its end."""
        try:
            while self._watched:
                await asyncio.sleep(PAUSE)
                for ino in list(self._watched)[:AT_ONCE]:
                    await self._look(ino)
        finally:
            self._watching = False

    async def _look(self, ino: int) -> None:
        try:
            await self._retire(ino)
        except Exception as error:  # of one file: the others are looked at all the same
            self._complaints.failed(ino, "a mapped file is looked at again later", error, ino=ino)
        else:
            self._complaints.over(ino)
        del self._watched[ino]
        if ino in self._mappable:
            self._watched[ino] = None  # at the end of the queue


def _is_used(path: str, fd: int | None) -> bool:
    if fd is not None:
        return is_used_elsewhere(fd)
    try:
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # for all that we know: it is asked about again
    try:
        return is_used_elsewhere(own)
    finally:
        os.close(own)
