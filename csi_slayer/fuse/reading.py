"""Bytes of a local file for a READ reply, without holding the event loop for a disk."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os

from csi_slayer.vfs.types import FileRange


class FileReader:
    """``largest`` is the size of the largest READ, bytes."""

    def __init__(self, largest: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._view = memoryview(mmap.mmap(-1, largest))

    async def load(self, wanted: FileRange, most: int) -> memoryview | bytes:
        """At most ``most`` bytes of a range; fewer only at the end of the file. Raises OSError.

        What the page cache has comes in a buffer that the next call uses again: it must be
        written before anything else is awaited. For the rest a thread waits.
        """
        fd, offset, length = wanted
        length = min(length, most)
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
        own = os.dup(fd)
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
