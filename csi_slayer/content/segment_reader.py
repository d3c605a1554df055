"""One segment of an object and the transfers that fill it.

Ranges that are missing are fetched concurrently and written into the segment; a reader waits until
the blocks that it asked for are there, and reads them from the segment file, or from memory as they
came. Every request carries If-Match: if the object changed, the reader gets ESTALE, never a
mixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from csi_slayer.cache import BLOCK, Segment
from csi_slayer.content.options import Live
from csi_slayer.content.ranges import FileRange, Views, as_bytes
from csi_slayer.content.small import Source
from csi_slayer.errors import CacheFull, ObjectNotFound, PreconditionFailed, StoreUnavailable
from csi_slayer.scheduling.window import Window
from csi_slayer.store.base import ObjectStore

CHUNK = 16 << 20
"""Largest range of one transfer, bytes."""


TOGETHER = 0.25
"""Seconds for which the error of a transfer that found no store is that of other reads there, too:
of programs that read one page the kernel lets the next one ask when the one before has its answer,
and each would wait as long anew."""

Settled = Callable[[str], Awaitable[None]]
"""Waits, within bounds, for the end of a change of our own to the object of a key, if there is
one: it may have given the object another version, or another key, that is not noted yet."""


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
    def allowed(self) -> bool:
        """Whether the volume is to fetch ahead."""
        return self._live.prefetch

    @property
    def busy(self) -> bool:
        """Whether there is none to be had now."""
        return self._running >= self._limit or not self.allowed


def _piece(start: int, end: int) -> int:
    """Bytes of a transfer in a window: four make it, so that several transfers work at it."""
    return min(CHUNK, max(CHUNK // 4, (end - start) // 4 // BLOCK * BLOCK))


class _Waiter(NamedTuple):
    start: int
    end: int
    ready: Callable[[int, int], bool]
    future: asyncio.Future[None]


class _Transfer(NamedTuple):
    start: int
    end: int
    ahead: bool
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
        settled: Settled,
        base: int = 0,
        window: Window | None = None,
    ) -> None:
        self.segment = segment
        self.source = source
        self.base = base
        self._settled = settled
        self._store = store
        self._transfers = transfers
        self.window = window or Window()
        self._running: list[_Transfer] = []
        self._waiters: list[_Waiter] = []
        self._loop = asyncio.get_running_loop()
        self._woken = False
        self._ahead_to = 0
        self._users = 0
        self._closing = False
        self._cached = 0
        self._failed: tuple[int, int, str, float] | None = None

    @property
    def is_used(self) -> bool:
        """Whether reads are under way."""
        return self._users > 0

    async def read(self, offset: int, end: int) -> FileRange | Views | bytes:
        """Bytes [offset, end) of the segment, waiting for them if need be."""
        self._users += 1
        try:
            result = await self._read(offset, end)
            return as_bytes(result) if self._closing else result
        finally:
            await self._used()

    async def _read(self, offset: int, end: int) -> FileRange | Views:
        segment = self.segment
        claimed = segment.claim(offset, end)
        if not segment.complete:
            here = claimed is not None or segment.present(offset, end - offset)
            if not here:
                self._fail_together(offset, end)
                if segment.has_no_room and self._gaps(offset, end):
                    raise CacheFull("the cache is full")  # before it is fetched in vain
            self._prepare(offset, end, stalled=not here)
            while claimed is None and not segment.present(offset, end - offset):
                await self._arrival(offset, end, segment.available)
                claimed = segment.claim(offset, end)
        if claimed is not None:
            return Views(claimed.views, end - offset, claimed.pieces)
        return FileRange(segment.fd, offset, end - offset)

    def _fail_together(self, offset: int, end: int) -> None:
        if self._failed is not None:
            start, stop, text, until = self._failed
            if self._loop.time() >= until:
                self._failed = None
            elif offset < stop and start < end:
                raise StoreUnavailable(text)

    async def fill(self, *, cached: bool) -> None:
        """Fetch all that is missing; ``cached``: through the page cache, be it dear or not, as it
        is read from there next."""
        self._users += 1
        self._cached += cached
        try:
            await self._fill()
        finally:
            self._cached -= cached
            await self._used()

    async def _used(self) -> None:
        self._users -= 1
        if self._closing:
            await self.close()

    async def _fill(self) -> None:
        # What comes next is fetched ahead: who only reads does not wait behind all of it.
        step = CHUNK if self._transfers.allowed else 4 * CHUNK
        segment, offset = self.segment, 0
        while offset < segment.size:
            end = min(segment.size, offset + step)
            if not segment.complete:
                self._prepare(offset, end, stalled=not segment.present(offset, end - offset))
                while not segment.present(offset, end - offset):
                    await self._arrival(offset, end, self._is_present)
                segment.unclaimed()
            offset = end

    def _is_present(self, offset: int, end: int) -> bool:
        return self.segment.present(offset, end - offset)

    def _prepare(self, offset: int, end: int, *, stalled: bool) -> None:
        """Start fetching what is wanted, if ``stalled``, and what is probably wanted next."""
        ahead = min(self.window.note(offset, end, stalled=stalled), self.segment.size)
        if stalled:
            self._demand(offset, self._reach(offset, end, ahead))
        if self.window.sequential and not self.segment.has_no_room:
            self._read_ahead(end, ahead)

    async def _arrival(self, offset: int, end: int, ready: Callable[[int, int], bool]) -> None:
        """Wait until ``ready(offset, end)``, or until a transfer there has ended."""
        self._demand(offset, end)
        waiter = _Waiter(offset, end, ready, self._loop.create_future())
        self._waiters.append(waiter)
        try:
            # Again: a transfer's thread tells us of a block only if somebody waits.
            if not ready(offset, end):
                await waiter.future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

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

    def _reach(self, start: int, end: int, ahead: int) -> int:
        """Up to where to fetch for one who waits for [start, end): for a reader in sequence a whole
        piece at once. Where many read, no transfer is to be had for what comes next, and each of
        the small ranges that they ask for would be a request of its own."""
        piece = _piece(end, ahead)
        if not self.window.sequential or not self._transfers.allowed:
            return end
        if ahead - end < piece and ahead < self.segment.size:
            return end
        gaps = self._gaps(start, end)
        if not gaps or gaps[-1][1] < end:
            return end
        return max(end, min(ahead, gaps[-1][0] + piece))

    def _read_ahead(self, start: int, end: int) -> None:
        """Start fetching [start, end) as far as transfers are to be had, in large pieces only:
        many small ranges would cost more requests than they gain."""
        if not start <= self._ahead_to <= end:
            self._ahead_to = start  # a reader that jumped
        piece, last = _piece(start, end), end == self.segment.size
        if self._transfers.busy or (end - self._ahead_to < piece and not last):
            return
        for s, e in self._gaps(self._ahead_to, end):
            for part in range(s, e, piece):
                stop = min(e, part + piece)
                if stop == end and stop - part < piece and not last:
                    return  # the rest is a part of the next piece
                if not self._transfers.try_take():
                    return
                self._launch(part, stop, ahead=True)
                self._ahead_to = stop
        self._ahead_to = end

    def _launch(self, start: int, end: int, *, ahead: bool) -> None:
        task = self._loop.create_task(self._transfer(start, end))
        transfer = _Transfer(start, end, ahead, task)
        self._running.append(transfer)
        task.add_done_callback(lambda _task: self._ended(transfer))

    async def _transfer(self, start: int, end: int) -> None:
        while True:
            source = self.source
            try:
                await self._store.fetch(
                    source.key,
                    offset=self.base + start,
                    length=end - start,
                    if_match=source.etag,
                    sink=self.segment.sink(
                        self._piece, end=end, base=self.base, cached=self._cached > 0
                    ),
                )
                return
            except (ObjectNotFound, PreconditionFailed):
                if self.source == source:
                    await self._settled(source.key)
                if self.source == source:
                    raise  # else it was moved meanwhile, by a rename: ask there

    def _piece(self, _offset: int, _length: int) -> None:
        """Called in a transfer's thread after each block."""
        if self._waiters and not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._progress)

    def _progress(self) -> None:
        self._woken = False
        for waiter in self._waiters:
            if not waiter.future.done() and waiter.ready(waiter.start, waiter.end):
                waiter.future.set_result(None)

    def _ended(self, transfer: _Transfer) -> None:
        self._running.remove(transfer)
        if transfer.ahead:  # here, for a task that is cancelled before it began runs nothing
            self._transfers.give_back()
        error = None if transfer.task.cancelled() else transfer.task.exception()
        for waiter in self._waiters:
            overlaps = waiter.start < transfer.end and transfer.start < waiter.end
            if waiter.future.done() or not overlaps:
                continue
            if error is not None:
                waiter.future.set_exception(error)
                if isinstance(error, StoreUnavailable):
                    until = self._loop.time() + TOGETHER
                    self._failed = (transfer.start, transfer.end, str(error), until)
            else:
                waiter.future.set_result(None)

        self._let_go()

    def stop(self) -> None:
        """Stop the transfers and let go of the segment, as soon as nobody reads from it and the
        last transfer has ended."""
        self._closing = True
        if not self._users:
            for transfer in self._running:
                transfer.task.cancel()
            self._let_go()

    def _let_go(self) -> None:
        # Not before: the threads of transfers write into the segment's descriptor.
        if self._closing and not self._users and not self._running:
            self.segment.close()

    async def close(self) -> None:
        """:meth:`stop`, and wait for it unless somebody reads, who does so then."""
        self.stop()
        if not self._users and self._running:
            tasks = [transfer.task for transfer in self._running]
            await asyncio.gather(*tasks, return_exceptions=True)
