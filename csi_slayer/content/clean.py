"""Reading one version of one object through the cache.

Ranges that are missing from the segment are fetched concurrently and written into it; a reader
waits until the blocks that it asked for are there, and reads them from the segment file. Every
request carries If-Match: if the object changed, the reader gets ESTALE, never a mixture.
"""

from __future__ import annotations

import asyncio
import errno
from typing import NamedTuple

from csi_slayer.cache import BLOCK, SMALL, Cache, Segment, SegmentKey
from csi_slayer.content.options import ContentEvents, Live
from csi_slayer.content.ranges import FileRange, ReadResult, as_bytes
from csi_slayer.content.small import SmallFetcher, Source
from csi_slayer.errors import CacheFull, FsError, ObjectNotFound, PreconditionFailed
from csi_slayer.scheduling.window import Window
from csi_slayer.store.base import ObjectStore

CHUNK = 16 << 20
"""Largest range of one transfer, bytes."""


class Transfers:
    """How many readahead transfers a worker has under way, at most ``limit`` and none while the
    volume is not to fetch ahead; a demanded range never waits here."""

    def __init__(self, limit: int, live: Live) -> None:
        self._limit = limit
        self._live = live
        self._running = 0

    def try_take(self) -> bool:
        if self.busy:
            return False
        self._running += 1
        return True

    def give_back(self) -> None:
        self._running -= 1

    @property
    def busy(self) -> bool:
        """Whether there is none to be had now."""
        return self._running >= self._limit or not self._live.prefetch


class _Waiter(NamedTuple):
    start: int
    end: int
    future: asyncio.Future[None]


class _Transfer(NamedTuple):
    start: int
    end: int
    task: asyncio.Task[None]


class SegmentReader:
    """One segment of an object and the transfers that fill it.

    ``base`` is the object offset of the segment's first byte (files larger than a segment's limit
    have several). Owned by one :class:`CleanFile`; all calls from the event loop.
    """

    def __init__(
        self,
        store: ObjectStore,
        transfers: Transfers,
        segment: Segment,
        source: Source,
        base: int = 0,
    ) -> None:
        self.segment = segment
        self.source = source
        self.base = base
        self._store = store
        self._transfers = transfers
        self._window = Window()
        self._running: list[_Transfer] = []
        self._waiters: list[_Waiter] = []
        self._loop = asyncio.get_running_loop()
        self._woken = False
        self._ahead_to = 0

    async def read(self, offset: int, end: int) -> FileRange:
        """Bytes [offset, end) of the segment, waiting for them if need be."""
        segment = self.segment
        if not segment.complete:
            present = segment.present(offset, end - offset)
            if not present:
                self._demand(offset, end)
            ahead = self._window.note(offset, end, stalled=not present)
            if self._window.sequential:
                self._read_ahead(end, min(ahead, segment.size))
            while not segment.present(offset, end - offset):
                self._demand(offset, end)
                future: asyncio.Future[None] = self._loop.create_future()
                waiter = _Waiter(offset, end, future)
                self._waiters.append(waiter)
                try:
                    # Again: a transfer's thread tells us of a block only if somebody waits.
                    if not segment.present(offset, end - offset):
                        await future
                finally:
                    if waiter in self._waiters:
                        self._waiters.remove(waiter)
        return FileRange(segment.fd, offset, end - offset)

    async def fill(self) -> None:
        """Fetch all that is missing."""
        offset = 0
        while offset < self.segment.size:
            end = min(self.segment.size, offset + 4 * CHUNK)
            await self.read(offset, end)
            offset = end

    def _gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """Parts of [start, end) that are neither present nor under way, as (start, end)."""
        gaps = [(s, s + n) for s, n in self.segment.missing(start, end - start)]
        for transfer in self._running:
            left: list[tuple[int, int]] = []
            for s, e in gaps:
                if transfer.end <= s or e <= transfer.start:
                    left.append((s, e))
                    continue
                if s < transfer.start:
                    left.append((s, transfer.start))
                if transfer.end < e:
                    left.append((transfer.end, e))
            gaps = left
        return gaps

    def _demand(self, start: int, end: int) -> None:
        for s, e in self._gaps(start, end):
            for part in range(s, e, CHUNK):
                self._launch(part, min(e, part + CHUNK), ahead=False)

    def _read_ahead(self, start: int, end: int) -> None:
        """Start fetching [start, end) as far as transfers are to be had, in large pieces only:
        many small ranges would cost more requests than they gain. Four pieces make the window, so
        that several transfers work at it."""
        if not start <= self._ahead_to <= end:
            self._ahead_to = start  # a reader that jumped
        piece = min(CHUNK, max(CHUNK // 4, (end - start) // 4 // BLOCK * BLOCK))
        if (end - self._ahead_to < piece and end < self.segment.size) or self._transfers.busy:
            return
        for s, e in self._gaps(self._ahead_to, end):
            for part in range(s, e, piece):
                if not self._transfers.try_take():
                    return
                self._launch(part, min(e, part + piece), ahead=True)
                self._ahead_to = min(e, part + piece)
        self._ahead_to = end

    def _launch(self, start: int, end: int, *, ahead: bool) -> None:
        task = self._loop.create_task(self._transfer(start, end, ahead))
        transfer = _Transfer(start, end, task)
        self._running.append(transfer)
        task.add_done_callback(lambda _task: self._ended(transfer))

    async def _transfer(self, start: int, end: int, ahead: bool) -> None:
        try:
            while True:
                source = self.source
                try:
                    await self._store.fetch(
                        source.key,
                        offset=self.base + start,
                        length=end - start,
                        if_match=source.etag,
                        sink=self.segment.sink(self._piece, base=self.base),
                    )
                    return
                except (ObjectNotFound, PreconditionFailed):
                    if self.source == source:
                        raise  # else it was moved meanwhile, by a rename: ask there
        finally:
            if ahead:
                self._transfers.give_back()

    def _piece(self, _offset: int, _length: int) -> None:
        """Called in a transfer's thread after each block."""
        if self._waiters and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._progress)

    def _progress(self) -> None:
        self._woken = False
        for waiter in self._waiters:
            if not waiter.future.done() and self.segment.present(
                waiter.start, waiter.end - waiter.start
            ):
                waiter.future.set_result(None)

    def _ended(self, transfer: _Transfer) -> None:
        self._running.remove(transfer)
        error = None if transfer.task.cancelled() else transfer.task.exception()
        for waiter in self._waiters:
            overlaps = waiter.start < transfer.end and transfer.start < waiter.end
            if waiter.future.done() or not overlaps:
                continue
            if error is not None:
                waiter.future.set_exception(error)
            else:
                waiter.future.set_result(None)

    async def close(self) -> None:
        """Stop the transfers and let go of the segment."""
        tasks = [transfer.task for transfer in self._running]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self.segment.close()


class CleanFile:
    """An open file whose bytes are those of an object version, in one or several segments."""

    def __init__(
        self,
        store: ObjectStore,
        cache: Cache,
        smalls: SmallFetcher,
        tenant: str,
        transfers: Transfers,
        events: ContentEvents,
        source: Source,
        segment_max: int,
    ) -> None:
        self.source = source
        self._store = store
        self._smalls = smalls
        self._cache = cache
        self._tenant = tenant
        self._transfers = transfers
        self._events = events
        self._span = segment_max
        self._readers: dict[int, SegmentReader] = {}
        self._key = source.key
        self._etag = source.etag
        self.renamed = False

    @property
    def size(self) -> int:
        return self.source.size

    @property
    def whole_fd(self) -> int | None:
        """A descriptor of the complete local copy, None if there is none."""
        reader = self._readers.get(0)
        if reader is None or self.size > self._span or not reader.segment.complete:
            return None
        return reader.segment.fd

    @property
    def segment(self) -> Segment | None:
        """The one segment of a file that fits one."""
        reader = self._readers.get(0)
        return reader.segment if reader is not None and self.size <= self._span else None

    def moved(self, key: str, etag: str) -> None:
        """The same bytes are now at another key or under another version (a server-side copy)."""
        self.source = self.source._replace(key=key, etag=etag)
        self.renamed = True
        for reader in self._readers.values():
            reader.source = self.source

    async def open_segment(self, span: int = 0) -> SegmentReader | None:
        """The reader of one span; None if the cache has no room for it."""
        reader = self._readers.get(span)
        if reader is not None:
            return reader
        key = SegmentKey.of(self._tenant, self._key, self._etag, span)
        size = min(self._span, self.size - span * self._span)
        segment = self._smalls.find(key, size)
        if segment is None and self.size <= SMALL:
            segment = await self._fetch_small(key)
            if segment is None:
                return None
        if segment is not None and segment.needs_verify:
            # After a reboot, or when somebody touched the file: nothing unverified is served.
            await asyncio.to_thread(segment.verify)
        if segment is None:
            try:
                segment = self._cache.create(key, size)
            except CacheFull:
                return None
        reader = self._readers.get(span)
        if reader is not None:
            segment.close()
            return reader
        if len(self._readers) >= 8:
            await self._readers.pop(next(iter(self._readers))).close()
        reader = SegmentReader(
            self._store, self._transfers, segment, self.source, span * self._span
        )
        self._readers[span] = reader
        return reader

    async def _fetch_small(self, key: SegmentKey) -> Segment | None:
        while True:
            source = self.source
            try:
                return await self._smalls.fetch(source, key)
            except (ObjectNotFound, PreconditionFailed):
                if self.source == source:
                    raise

    async def open_local(self) -> None:
        """Open the segment if the cache has it, without asking the store."""
        key = SegmentKey.of(self._tenant, self._key, self._etag, 0)
        if self._cache.contains(key):
            await self.open_segment()

    async def read(self, offset: int, size: int) -> ReadResult:
        """Raises FsError(ESTALE) if the object is no longer this version."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        try:
            first, last = offset // self._span, (end - 1) // self._span
            if first == last:
                return await self._read_span(first, offset, end)
            pieces = []
            for span in range(first, last + 1):
                start = max(offset, span * self._span)
                stop = min(end, (span + 1) * self._span)
                pieces.append(as_bytes(await self._read_span(span, start, stop)))
            return b"".join(pieces)
        except (PreconditionFailed, ObjectNotFound) as error:
            raise FsError(errno.ESTALE, "the object changed while it was being read") from error

    async def _read_span(self, span: int, offset: int, end: int) -> ReadResult:
        reader = await self.open_segment(span)
        base = span * self._span
        if reader is not None:
            try:
                hit = reader.segment.present(offset - base, end - offset)
                self._events.cache_read(*((end - offset, 0) if hit else (0, end - offset)))
                return await reader.read(offset - base, end - base)
            except CacheFull:
                pass
        # No room in the cache: hand the bytes on without keeping them.
        _info, data = await self._store.get(
            self.source.key, offset=offset, length=end - offset, if_match=self.source.etag
        )
        return data

    async def fill(self) -> bool:
        """Fetch the whole file into its one segment; False if the cache has no room."""
        if self.size > self._span:
            return False
        reader = await self.open_segment()
        if reader is None:
            return False
        try:
            await reader.fill()
        except CacheFull:
            return False
        except (PreconditionFailed, ObjectNotFound) as error:
            raise FsError(errno.ESTALE, "the object changed while it was being read") from error
        return reader.segment.complete

    def surrender(self, stage_path: str) -> int | None:
        """Turn the complete segment into a staged file at ``stage_path`` without copying.

        Returns its descriptor, which the caller then owns, or None if another process reads the
        segment. The file must not be used afterwards.
        """
        segment = self.segment
        if segment is None or not segment.complete:
            return None
        fd = segment.detach(stage_path)
        if fd is not None:
            self._readers.clear()
        return fd

    async def close(self) -> None:
        readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            await reader.close()
