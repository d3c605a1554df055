"""The device: reading requests from the event loop, writing replies.

Request buffers come from a bounded pool. A buffer is used for one request after the other, except
that a large WRITE whose handler waits takes its buffer along; when all are taken, reading stops
until one comes back. INTERRUPT requests wait as long, too: handlers that never end would have to
be ended by stopping the session.
"""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import Callable
from typing import Final

import structlog

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.splice import Splicer
from csi_slayer.vfs.types import FileRange, Views

log = structlog.get_logger(__name__)

POOL: Final = 32
"""Most request buffers, and so most large WRITE requests whose handlers wait."""

_KEPT: Final = 4
"""Buffers kept when nobody needs them: their pages stay in memory."""

_BATCH: Final = 32
"""Most requests per turn of the loop: other callbacks get a turn within a millisecond or so."""

_LOOKS: Final = 10
"""Times that we look for the next request after a write was answered, before we sleep: a writer
that waits for each answer is back within microseconds, and to wake us takes longer than that."""

_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN, errno.EBADF})
_ONCE_MORE: Final = frozenset({errno.ENOENT, errno.EINTR, errno.EIO})

Reply = bytes | memoryview | FileRange | Views | None
"""A reply's body; a range must be in the page cache, and not larger than can be spliced."""


class Buffer:
    """Room for one request, page-aligned, all of it in memory.

    Of a reader that is killed in the moment when the kernel must bring in a page to copy a request
    to, the kernel takes no page fault any more (``__get_user_pages``, mm/gup.c) and answers the
    request with EIO (``fuse_dev_do_read``, fs/fuse/dev.c): nobody could be handed it over.
    """

    __slots__ = ("parts", "view")

    _FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE

    def __init__(self, size: int) -> None:
        self.view = memoryview(mmap.mmap(-1, size, flags=self._FLAGS))
        self.parts = (self.view,)


class Channel:
    """One /dev/fuse descriptor, which must be non-blocking; the caller keeps and closes it.

    ``largest`` is the size of the largest request in bytes, its header included; ``splice``
    whether replies may be spliced.
    """

    def __init__(
        self, fd: int, largest: int, loop: asyncio.AbstractEventLoop, *, splice: bool = False
    ) -> None:
        self.fd = fd
        self._largest = largest
        self._loop = loop
        self._free: list[Buffer] = []
        self._taken = 0
        self._buffer: Buffer | None = None
        self._handle: Callable[[Buffer, int], bool] | None = None
        self._closed: Callable[[], None] | None = None
        self._reading = False
        self._splicer = Splicer(fd)
        if splice:
            self._splicer.open()

    def close(self) -> None:
        """Read no more and write no more; the descriptor stays open."""
        self.stop()
        self._splicer.close()

    def spliceable(self) -> int:
        """Bytes of the largest range that can be replied with; 0 for none."""
        return self._splicer.largest

    def start(self, handle: Callable[[Buffer, int], bool], closed: Callable[[], None]) -> None:
        """Read from now on. ``handle`` gets each request and says whether it keeps the buffer;
        ``closed`` is called once when the connection has ended."""
        self._handle = handle
        self._closed = closed
        self._resume()

    def stop(self) -> None:
        """Read no more; replies can still be written."""
        self._handle = None
        self._pause()

    def give_back(self, buffer: Buffer) -> None:
        """A buffer that ``handle`` kept is no longer needed."""
        self._taken -= 1
        if len(self._free) < _KEPT:
            self._free.append(buffer)
        if self._handle is not None:
            self._resume()

    def _resume(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self.fd, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)

    def _readable(self) -> None:
        looks = 0
        for _ in range(_BATCH):
            buffer = self._buffer
            if buffer is None:
                if self._taken == POOL:
                    self._pause()
                    return
                buffer = self._buffer = self._free.pop() if self._free else Buffer(self._largest)
            try:
                length = os.readv(self.fd, buffer.parts)
            except BlockingIOError:
                if looks == 0:
                    return
                looks -= 1
                os.sched_yield()
                continue
            except OSError as error:
                if error.errno in _ONCE_MORE:  # that request was withdrawn while being copied
                    continue
                self._end(error)
                return
            handle = self._handle
            if handle is None:
                return
            if length < p.IN_HEADER_SIZE:
                self._end(OSError(errno.EBADF, "no request device"))
                return
            looks = _LOOKS if length >= p.PAGE else 0  # only a write is that long
            if handle(buffer, length):
                self._buffer = None
                self._taken += 1
                looks = 0

    def _end(self, error: OSError) -> None:
        if error.errno not in _GONE:
            log.error("fuse_read_failed", error=os.strerror(error.errno or 0))
        closed = self._closed
        self.stop()
        if closed is not None:
            closed()

    def reply(self, unique: int, body: Reply) -> None:
        """Answer a request; None and empty are a reply without a body."""
        try:
            if isinstance(body, FileRange):
                if self._splicer.send(unique, body):
                    return
                body = os.pread(body.fd, body.length, body.offset)
            if isinstance(body, Views):
                head = p.OUT_HEADER.pack(16 + body.length, 0, unique)
                os.writev(self.fd, (head, *body.parts))
            elif body:
                os.writev(self.fd, (p.OUT_HEADER.pack(16 + len(body), 0, unique), body))
            else:
                os.write(self.fd, p.OUT_HEADER.pack(16, 0, unique))
        except OSError as error:
            if self._refused(error):
                self.reply_error(unique, errno.EIO)

    def reply_error(self, unique: int, number: int) -> None:
        """Answer with an errno, which must be positive."""
        # The kernel takes 1 to 511; a reply that it refuses would leave the caller waiting.
        known = number if 0 < number < 512 else errno.EIO
        try:
            os.write(self.fd, p.OUT_HEADER.pack(16, -known, unique))
        except OSError as error:
            self._refused(error)

    @staticmethod
    def _refused(error: OSError) -> bool:
        """True if the kernel refused the reply; False if nobody waits for it any more."""
        if error.errno == errno.ENOENT or error.errno in _GONE:
            return False
        log.error("fuse_reply_refused", error=os.strerror(error.errno or 0))
        return True
