"""Bytes of a local file for a READ reply, without holding the event loop for a disk."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
from collections.abc import Callable

from csi_slayer.fuse.splice import SMALLEST, PageCache
from csi_slayer.vfs.types import FileRange


class FileReader:
    """``largest`` is the size of the largest READ, bytes; ``spliceable`` says up to which size the
    channel can splice now."""

    def __init__(
        self, largest: int, spliceable: Callable[[], int], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._loop = loop
        self._spliceable = spliceable
        self._page_cache = PageCache()
        self._view = memoryview(mmap.mmap(-1, largest))

    async def load(self, wanted: FileRange, most: int) -> memoryview | bytes | FileRange:
        """At most ``most`` bytes of a range; fewer only at the end of the file. Raises OSError.

        What the page cache has is returned without waiting: as a range to splice, or in a buffer
        that the next call uses again. Either must be written before anything else is awaited.
        For the rest a thread waits.
        """
        fd, offset, length = wanted
        length = min(length, most)
        if SMALLEST <= length <= self._spliceable():
            cached = FileRange(fd, offset, min(length, os.fstat(fd).st_size - offset))
            if cached.length >= SMALLEST and self._page_cache.holds(cached):
                return cached
        try:
            got = os.preadv(fd, (self._view[:length],), offset, os.RWF_NOWAIT)
        except BlockingIOError:
            got = 0
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            # A file system in memory, or one that cannot tell.
            got = os.preadv(fd, (self._view[:length],), offset)
        if got == length or os.fstat(fd).st_size <= offset + got:
            return self._view[:got]
        # Whoever handed us the descriptor may close it as soon as we wait.
        try:
            own = os.dup(fd)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            return _pread(fd, length, offset)  # at once: better late for all than EIO
        try:
            return await self._loop.run_in_executor(None, _pread, own, length, offset)
        finally:
            os.close(own)


def _pread(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
