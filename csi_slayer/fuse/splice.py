"""Large READ replies from a local file by splice(2): one copy instead of two.

Measured (kernel 6.18, 2 cores, from the page cache): 512 KiB replies 4.2 GB/s against 2.6 GB/s by
pread and writev, 128 KiB 2.1 against 1.7; no gain at 4 KiB. But a splice that meets a page which is
not in memory waits for the disk, so cachestat(2) (Linux 6.5) is asked first, and without it nothing
is spliced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from typing import Final

from csi_slayer.fuse import protocol as p
from csi_slayer.vfs.types import FileRange

SMALLEST: Final = 128 << 10
"""Bytes from which on splicing is the cheaper way."""

_CACHESTAT: Final = 451  # the same on all architectures
_PIPE_SIZE: Final = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall


class PageCache:
    """Asks whether a range of a file is in memory."""

    def __init__(self) -> None:
        self._range = (ctypes.c_uint64 * 2)()
        self._stat = (ctypes.c_uint64 * 5)()
        self._known = True

    def holds(self, wanted: FileRange) -> bool:
        """True if all of the range's pages are; False also where the kernel does not say."""
        if not self._known:
            return False
        fd, offset, length = wanted
        self._range[0], self._range[1] = offset, length
        if _syscall(_CACHESTAT, fd, ctypes.byref(self._range), ctypes.byref(self._stat), 0):
            self._known = ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM)
            return False
        pages = (offset + length - 1) // mmap.PAGESIZE - offset // mmap.PAGESIZE + 1
        return int(self._stat[0]) >= pages


class Splicer:
    """The pipe between files and one /dev/fuse descriptor."""

    def __init__(self, fuse_fd: int) -> None:
        self._fuse_fd = fuse_fd
        self._pipe: tuple[int, int] | None = None
        self.largest = 0
        """Bytes that fit beside the header, each page taking a slot of the pipe; 0 is off."""

    def open(self) -> None:
        """Make the pipe; where only a small one is allowed, or none is to be had, stay off."""
        try:
            pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # no descriptors left
            return
        # EPERM where fs.pipe-max-size is less, or the user has too many pipes already.
        with contextlib.suppress(OSError):
            self.largest = fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            self.largest -= 2 * mmap.PAGESIZE
        if self.largest < SMALLEST:
            self.largest = 0
            for fd in pipe:
                os.close(fd)
        else:
            self._pipe = pipe

    def close(self) -> None:
        self.largest = 0
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None

    def send(self, unique: int, data: FileRange) -> bool:
        """Reply with exactly this range. False if the file gave less: nothing is sent then.

        Raises OSError for what the kernel says to the reply.
        """
        assert self._pipe is not None
        out, into = self._pipe
        fd, offset, length = data
        total = p.OUT_HEADER_SIZE + length
        try:
            os.write(into, p.OUT_HEADER.pack(total, 0, unique))
            moved = 0
            while moved < length:
                part = os.splice(fd, into, length - moved, offset_src=offset + moved)
                if part == 0:
                    raise BlockingIOError  # it was truncated meanwhile
                moved += part
        except OSError:
            self._renew()
            return False
        try:
            os.splice(out, self._fuse_fd, total)
        except OSError:
            self._renew()
            raise
        return True

    def _renew(self) -> None:
        """Throw away what is left in the pipe."""
        self.close()
        self.open()
