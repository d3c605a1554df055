"""A large existing object that is being changed: a sparse staged copy over the object.

The staged file holds the blocks that were written or fetched; a small map beside it says which.
A write that covers a block in part first fetches the rest of it, so a block is either wholly in
the stage or wholly in the object. The map is mmapped: what a write acknowledged survives the
worker's death (the page cache is the kernel's).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from contextlib import AsyncExitStack

from csi_slayer.cache.filesystem import KEEP_SIZE, PUNCH_HOLE
from csi_slayer.cache.oserrors import read_through
from csi_slayer.cache.staging import SIDECAR
from csi_slayer.content import overlay_map
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.locks import Locks
from csi_slayer.content.overlay_map import BLOCK, HEADER, HEADER_SIZE, LIMIT_AT, MAGIC
from csi_slayer.content.ranges import FileRange, ReadResult, as_bytes
from csi_slayer.content.staged import (
    fallocate,
    os_errors,
    sync,
    write_fully,
)
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import CacheCorrupt, CacheFull, FsError

ABSENT, PRESENT, DIRTY = 0, 1, 2
_ABSENT_BYTE, _PRESENT_BYTE, _DIRTY_BYTE = bytes([ABSENT]), bytes([PRESENT]), bytes([DIRTY])
_GROW = 4096
_SLICE = 1 << 20
_RUN = 8
"""Blocks that are brought with one read: each would be a request where the cache has no room."""


class OverlayFile:
    """See the module. ``base`` reads the object; owns its descriptors and the base, once it is
    made. Raises CacheFull, CacheCorrupt, FsError."""

    whole_fd: int | None = None

    def __init__(self, stage: str, path: str, fd: int, base: CleanFile) -> None:
        self.stage = stage
        self.path = path
        self.fd = fd
        self.base = base
        self._locks = Locks[int]()
        self._zeroing: list[range] = []
        self._turns = 0
        self._checkpoint = threading.Lock()
        self._etags = (base.source.etag, base.source.etag)
        with os_errors():
            self._map_fd = os.open(path + SIDECAR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if is_new := os.fstat(self._map_fd).st_size < HEADER_SIZE:
                    os.pwrite(self._map_fd, HEADER.pack(MAGIC, BLOCK, base.size), 0)
                    os.posix_fallocate(self._map_fd, 0, HEADER_SIZE + _GROW)
                    os.ftruncate(fd, base.size)
                read_through(self._map_fd, os.fstat(self._map_fd).st_size)
                self._map = mmap.mmap(self._map_fd, 0)
                magic, block, self._limit = HEADER.unpack_from(self._map)
                if magic != MAGIC or block != BLOCK:
                    raise CacheCorrupt(f"the block map of staged file {stage} is damaged")
                if is_new:
                    overlay_map.note_object(self._map, base.source.etag, base.size)
                else:  # it was opened with the size that the inode has by now
                    size = overlay_map.object_size(self._map, base.source.etag)
                    base.end_at(self._limit if size is None else size)
            except BaseException:
                os.close(self._map_fd)
                raise
        # A worker may have died between the two steps of a truncation.
        self._set_limit(min(self._limit, self.size))

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd)

    def _state(self, block: int) -> int:
        at = HEADER_SIZE + block
        return self._map[at] if at < len(self._map) else ABSENT

    def _mark(self, block: int, state: int) -> None:
        self._mark_all(block, block + 1, state)

    def _mark_all(self, first: int, end: int, state: int) -> None:
        at = HEADER_SIZE + end - 1
        if at >= len(self._map):
            size = (at // _GROW + 1) * _GROW + HEADER_SIZE
            with os_errors():  # blocks first: on a full disk, writing to a hole would kill us
                os.posix_fallocate(self._map_fd, 0, size)
            self._map.resize(size)
        while first < end:
            stop = min(end, first + _SLICE)
            self._map[HEADER_SIZE + first : HEADER_SIZE + stop] = bytes([state]) * (stop - first)
            first = stop

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        struct.pack_into("<Q", self._map, LIMIT_AT, limit)

    def _from_base(self, block: int) -> bool:
        """Whether the block's bytes are still only in the object."""
        return block * BLOCK < self._limit and self._state(block) == ABSENT

    @property
    def is_whole(self) -> bool:
        """Whether nothing is to be read from the object any more."""
        end = HEADER_SIZE + -(-self._limit // BLOCK)
        return end <= len(self._map) and self._map.find(_ABSENT_BYTE, HEADER_SIZE, end) < 0

    async def _bring(self, block: int) -> None:
        """Copy a block from the object into the stage."""
        await self._bring_run(block, block + 1)

    async def _bring_run(self, first: int, last: int) -> None:
        """Copy the blocks [first, last) that are only in the object from there into the stage."""
        async with AsyncExitStack() as locks:
            for block in range(first, last):  # in this order everywhere: none waits for another
                await locks.enter_async_context(locks.enter_context(self._locks.of(block)))
            absent = [block for block in range(first, last) if self._from_base(block)]
            if not absent:
                return
            begin = absent[0] * BLOCK
            end = min((absent[-1] + 1) * BLOCK, self._limit)
            data = memoryview(as_bytes(await self._read_base(begin, end - begin)))
            for block in absent:
                if not self._from_base(block) or any(block in r for r in self._zeroing):
                    continue  # written or cut off meanwhile: what is there now is newer
                start = block * BLOCK
                stop = min(start + BLOCK, end, self._limit)
                self._fill(start, data[start - begin : stop - begin])
                self._mark(block, PRESENT)

    def _fill(self, start: int, data: memoryview) -> None:
        """Write what was fetched, as far as the file goes. Raises CacheFull if not all of it has
        room: the block stays the object's."""
        now = os.fstat(self.fd)
        data = data[: max(0, now.st_size - start)]
        try:
            if write_fully(self.fd, start, data) < len(data):
                raise CacheFull("no room for all of a block")
        finally:
            # Fetching is no change: the mtime is how a staged copy is known dirty. But a hole that
            # a thread is making is one, which may have set it just now.
            if not self._zeroing:
                with os_errors():
                    os.utime(self.fd, ns=(now.st_atime_ns, now.st_mtime_ns))

    async def read(self, offset: int, size: int) -> ReadResult:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        states = {self._from_base(block) for block in range(first, last + 1)}
        if states == {False}:
            return FileRange(self.fd, offset, end - offset)
        if states == {True} and end <= self._limit:
            return await self._read_base(offset, end - offset)
        for block in range(first, last + 1):
            if self._from_base(block):
                await self._bring(block)
        return FileRange(self.fd, offset, end - offset)

    async def _read_base(self, offset: int, size: int) -> ReadResult:
        """Bytes that are only in the object, which may get another version meanwhile by an upload
        of our own: they are in that, too."""
        while True:
            base = self.base
            try:
                return await base.read(offset, size)
            except FsError as error:
                if error.errno != errno.ESTALE or self.base is base:
                    raise

    async def _bring_edges(self, offset: int, end: int) -> None:
        """Bring the blocks of which [offset, end) covers a part."""
        for block in {offset // BLOCK, (end - 1) // BLOCK}:
            covered = offset <= block * BLOCK and end >= min((block + 1) * BLOCK, self._limit)
            if self._from_base(block) and not covered:
                await self._bring(block)

    async def write(self, offset: int, data: memoryview) -> int:
        end = offset + len(data)
        first, last = offset // BLOCK, (end - 1) // BLOCK
        await self._bring_edges(offset, end)
        written = write_fully(self.fd, offset, data)
        if written < len(data):  # the last block would have only a part of its bytes
            raise CacheFull("no room for all of a write")
        self._mark_all(first, last + 1, DIRTY)
        return written

    async def zero(self, offset: int, end: int) -> None:
        """Make [offset, end), within the file, zeros that take no room."""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        await self._bring_edges(offset, end)
        mode = PUNCH_HOLE | KEEP_SIZE
        blocks = range(first, last + 1)
        self._zeroing.append(blocks)  # nobody brings a block that is being made a hole
        try:
            await to_its_end(lambda _unwanted: fallocate(self.fd, mode, offset, end - offset))
            # After that: where it fails, what is only in the object still is.
            self._mark_all(first, last + 1, DIRTY)
        finally:
            self._zeroing.remove(blocks)

    async def truncate(self, size: int) -> None:
        # What lies beyond the limit needs no marks: it is in no object, and absent there are zeros.
        if size < self._limit and size % BLOCK and self._from_base(size // BLOCK):
            await self._bring(size // BLOCK)
        revoked: list[bool] = []
        try:
            if size < self._limit:
                await to_its_end(lambda unwanted: self._revoke_checkpoint(revoked, unwanted))
            with os_errors():
                os.ftruncate(self.fd, size)
            if size < self._limit:
                self._set_limit(size)
        finally:
            if revoked:
                self._checkpoint.release()

    async def bring_range(self, offset: int, length: int) -> None:
        """Have [offset, offset + length) wholly in the stage."""
        end = min(offset + length, self._limit)
        first, last = offset // BLOCK, -(-end // BLOCK)
        while first < last:
            if self._from_base(first):
                stop = first + 1
                while stop < min(last, first + _RUN) and self._from_base(stop):
                    stop += 1
                await self._bring_run(first, stop)
                first = stop
            else:
                first += 1

    async def bring_all(self) -> None:
        await self.bring_range(0, max(1, self.size))

    def clean_range(self, offset: int, length: int) -> bool:
        """Whether the object has just these bytes at this place."""
        if offset + length > self._limit:
            return False
        blocks = range(offset // BLOCK, (offset + length - 1) // BLOCK + 1)
        return all(self._state(block) != DIRTY for block in blocks)

    def rebase(self, base: CleanFile, *, unchanged: bool) -> CleanFile:
        """The object is now the merged content, as version ``base``; returns the old base.

        ``unchanged``: nothing was written here since that content was taken. Blocks that are
        only in the object are the same in both versions either way.
        """
        old, self.base = self.base, base
        self._etags = (base.source.etag, old.source.etag)
        overlay_map.note_object(self._map, base.source.etag, base.size)
        if not unchanged:
            return old
        at = self._map.find(_DIRTY_BYTE, HEADER_SIZE)
        while at >= 0:
            part = self._map[at : at + _SLICE]
            self._map[at : at + len(part)] = part.replace(_DIRTY_BYTE, _PRESENT_BYTE)
            at = self._map.find(_DIRTY_BYTE, at + len(part))
        self._set_limit(base.size)
        self._turns += 1
        with os_errors():
            overlay_map.forget_checkpoint(self.path)
        return old

    def sync(self) -> None:
        """Make stage and map durable on the local disk. Blocks: call in a thread. Raises NotKept,
        FsError, CacheFull."""
        with os_errors(), self._checkpoint:
            while True:
                turns, etags = self._turns, self._etags
                overlay_map.checkpoint(self.path, self._map_fd, etags, lambda: sync(self.fd))
                if self._turns != turns:
                    # The whole was uploaded meanwhile: blocks of then may be older than it.
                    overlay_map.forget_checkpoint(self.path)
                elif self._etags is etags:
                    return

    def _revoke_checkpoint(self, revoked: list[bool], unwanted: threading.Event) -> None:
        """Until the caller has cut the file, and releases it, no sync makes another one."""
        self._checkpoint.acquire()
        if unwanted.is_set():  # at the end of the event loop there is no caller any more
            self._checkpoint.release()
            return
        revoked.append(True)
        with os_errors():
            overlay_map.revoke_checkpoint(self.path)

    async def close(self) -> None:
        self._map.close()
        os.close(self._map_fd)
        os.close(self.fd)
        await self.base.close()
