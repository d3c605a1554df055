"""Telling the kernel to drop what it has cached.

An invalidation waits for locks of pages and directories, which a request holds that the event loop
is to answer. So one thread of its own writes them, from a queue. When the worker is killed while
that thread waits, nobody answers the request before the next worker is there, and no signal ends
the wait: the thread stays behind, with the worker's memory. So it has a table of descriptors of its
own, with the device only: everything else that the worker had open is let go at its death, with the
locks on it, and the next worker can start (:mod:`csi_slayer.node.remains`). What is mapped must
therefore not be what is locked.

Of attributes alone nothing is waited for: that is written at once.

An invalidation that is queued already is not queued twice. When the queue is full, further ones are
dropped, counted and logged: names and attributes then live until their TTL ends, pages until the
file is opened without KEEP_CACHE. Who wants an inode's dropped is told, and may come again.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import threading
from contextvars import copy_context
from typing import Final, NamedTuple

import structlog

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.protocol import Notify

log = structlog.get_logger(__name__)

LIMIT: Final = 1 << 16
"""Most invalidations that wait."""

RENEW_LOOKS, RENEW_PAUSE = 100, 0.001
"""Looks at whether an invalidation that is being written is over, so many seconds apart."""


_CLONE_FILES: Final = 0x400
"""linux/sched.h"""

_ATTRIBUTES: Final = -1
"""The offset that stands for no pages at all (fuse_reverse_inval_inode of fs/fuse/inode.c)."""

_libc = ctypes.CDLL(None, use_errno=True)


class Invalidation(NamedTuple):
    """Of a name if there is one, else of an inode's attributes and of the ``length`` bytes of its
    pages from ``offset`` on; 0: all. Without pages, and so without waiting, if ``offset`` is -1."""

    ino: int
    name: bytes | None = None
    offset: int = 0
    length: int = 0


def _message(code: Notify, body: bytes) -> bytes:
    return p.OUT_HEADER.pack(p.OUT_HEADER_SIZE + len(body), code, 0) + body


def resend(fd: int) -> None:
    """Have the kernel deliver again what was read and not answered. Raises OSError."""
    os.write(fd, _message(Notify.RESEND, b""))


def _keep_only(fd: int) -> None:
    """Give the calling thread a table of descriptors of its own, with this one only."""
    if _libc.unshare(_CLONE_FILES):
        # Forbidden by a filter of system calls, say. It matters only after a kill.
        log.warning("fuse_notifier_shares", error=os.strerror(ctypes.get_errno()))
        return
    os.closerange(0, fd)
    # Not up to the limit, which may be a billion: where there is no close_range(2) (before Linux
    # 5.9, or Python does not know it) each of them takes a call.
    highest = max(map(int, os.listdir("/proc/thread-self/fd")))
    os.closerange(fd + 1, highest + 1)


class Notifier:
    """All methods may be called from any thread and return at once, except :meth:`close`."""

    def __init__(self, fd: int, *, expire_only: bool, limit: int = LIMIT) -> None:
        self._fd = fd
        self._flags = p.EXPIRE_ONLY if expire_only else 0
        self._limit = limit
        self._changed = threading.Condition()
        self._queue: dict[Invalidation, None] = {}
        self._closing = False
        self._thread: threading.Thread | None = None
        self._refused = False
        self._writing: Invalidation | None = None
        self.dropped = 0

    def invalidate_attributes(self, ino: int) -> None:
        """An inode's attributes, which the kernel has dropped when this returns, unless the end has
        come: the descriptor's number may be another file's then."""
        if not self._closing:
            self._write(Invalidation(ino, None, _ATTRIBUTES))

    async def renew(self, ino: int) -> None:
        """An inode's attributes, with no invalidation of the inode after them. The kernel does not
        believe what it is told of an inode's size in an answer that an invalidation overtakes, nor
        by a read that ends early (``attr_version`` of fs/fuse/inode.c, ``fuse_short_read``)."""
        what = Invalidation(ino)
        with self._changed:
            self._queue.pop(what, None)
        for _ in range(RENEW_LOOKS):
            if self._writing != what:
                break
            await asyncio.sleep(RENEW_PAUSE)
        self.invalidate_attributes(ino)

    def invalidate_inode(self, ino: int) -> bool:
        """Attributes and pages of an inode; False if there was no room in the queue."""
        return self._put(Invalidation(ino))

    def invalidate_pages(self, ino: int, pages: range) -> None:
        """A part of an inode's pages, bytes, and its attributes."""
        self._put(Invalidation(ino, None, pages.start, len(pages)))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """A name in a directory, and the directory's cached listing."""
        self._put(Invalidation(parent, name))

    def _put(self, key: Invalidation) -> bool:
        with self._changed:
            if self._closing or key in self._queue:
                return True  # the next worker has the kernel drop all, or nobody has to
            if len(self._queue) >= self._limit:
                self.dropped += 1
                if self.dropped == 1:
                    log.warning("fuse_invalidations_dropped", limit=self._limit)
                return False
            self._queue[key] = None
            if self._thread is None:
                run = copy_context().run  # so that what is logged says of which volume it is
                self._thread = threading.Thread(
                    target=run, args=(self._run,), name="fuse-notify", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()
            return True

    def close(self, seconds: float) -> bool:
        """Write what is queued, but take no more; False if that took longer than ``seconds``."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread = self._thread
        if thread is None:
            return True
        thread.join(seconds)
        if thread.is_alive():
            with self._changed:
                self._queue.clear()
            return False
        return True

    def _run(self) -> None:
        _keep_only(self._fd)
        while True:
            with self._changed:
                while not self._queue:
                    if self._closing:
                        return
                    self._changed.wait()
                self._writing = first = next(iter(self._queue))
                del self._queue[first]
            self._write(first)
            self._writing = None

    def _write(self, what: Invalidation) -> None:
        try:
            self.send(what)
        except OSError as error:
            # ENOENT: the kernel has nothing cached. The others: the connection has ended.
            expected = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.EBADF, errno.EPERM)
            if error.errno not in expected and not self._refused:
                self._refused = True
                log.warning("fuse_invalidation_refused", error=os.strerror(error.errno or 0))

    def send(self, what: Invalidation) -> None:
        """Have the kernel drop it. May wait. Raises OSError."""
        ino, name, offset, length = what
        if name is None:
            body = p.NOTIFY_INVAL_INODE.pack(ino, offset, length)
            message = _message(Notify.INVAL_INODE, body)
        else:
            body = p.NOTIFY_INVAL_ENTRY.pack(ino, len(name), self._flags) + name + b"\0"
            message = _message(Notify.INVAL_ENTRY, body)
        os.write(self._fd, message)
