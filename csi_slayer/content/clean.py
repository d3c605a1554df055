"""A file whose bytes are those of one version of one object, read through the cache."""

from __future__ import annotations

import asyncio
import errno

from csi_slayer.cache import SMALL, Cache, Segment, SegmentKey, TurnTaken
from csi_slayer.content.following import follow
from csi_slayer.content.options import ContentEvents
from csi_slayer.content.past_cache import Memory, PastCache
from csi_slayer.content.ranges import ReadResult, as_bytes
from csi_slayer.content.segment_reader import SegmentReader, Settled, Transfers
from csi_slayer.content.small import SmallFetcher, Source
from csi_slayer.errors import CacheError, CacheFull, FsError, ObjectNotFound, PreconditionFailed
from csi_slayer.scheduling.behind import Behind
from csi_slayer.scheduling.window import Window
from csi_slayer.store.base import ObjectStore

PAST_CACHE = 5.0
"""Seconds for which a file is read past a cache that has failed, without trying it each time."""

MOST_OPEN = 8
"""Segments of one file that are open at a time, besides those that are read just now: fewer if they
are more than half of the cache, for what is open cannot be evicted."""

UNREAD = 2.0
"""Seconds after which, or after twice as many, a segment that nobody has read is let go of, of a
file of several: what is open is not evicted, and such a file may have all of the cache open."""

TURNS = 200
"""Tries, a millisecond apart, to take a segment while other workers of the node do the same."""


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
        settled: Settled,
        memory: Memory | None = None,
    ) -> None:
        self.source = source
        self._store = store
        self._smalls = smalls
        self._cache = cache
        self._tenant = tenant
        self._transfers = transfers
        self._events = events
        self._span = segment_max
        self._settled = settled
        self._readers: dict[int, SegmentReader] = {}
        self._was_opened = False
        self._key = source.key
        self._etag = source.etag
        self.renamed = False
        self._behind = Behind()
        self._lately: set[int] = set()
        self._look: asyncio.TimerHandle | None = None
        self._closed = False
        self.served = 0
        self._past_cache_until = 0.0
        self._past_cache = PastCache(store, memory or Memory())

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

    @property
    def fetched(self) -> int:
        """Bytes of it that its one segment has."""
        segment = self.segment
        return 0 if segment is None else segment.present_bytes

    @property
    def is_in_memory(self) -> bool:
        """Whether what its one segment has is in the page cache too, as far as is known."""
        segment = self.segment
        return segment is None or segment.is_in_memory

    def end_at(self, size: int) -> None:
        """The object has so many bytes, or no more of it are read. Before the first of them is."""
        self.source = self.source._replace(size=size)

    def moved(self, key: str, etag: str) -> None:
        """The same bytes are now at another key or under another version (a server-side copy)."""
        self.source = self.source._replace(key=key, etag=etag)
        self.renamed = True
        for reader in self._readers.values():
            reader.source = self.source

    async def open_segment(self, span: int = 0) -> SegmentReader | None:
        """The reader of one span; None if the cache has no room for it, or fails."""
        self._lately.add(span)
        reader = self._readers.pop(span, None)
        if reader is not None:
            self._readers[span] = reader  # in the order of their use
            return reader
        await self._leave_idle(span)  # here, where nothing is open yet that could be left
        base = span * self._span
        key = SegmentKey.of(self._tenant, self._key, self._etag, base)
        size = min(self._span, self.size - base)
        try:
            segment = await self._segment(key, size)
        except CacheError as error:
            self._cache.bypass(error)
            return None
        if segment is None:
            return None
        reader = self._readers.get(span)
        if reader is not None:
            segment.close()
            return reader
        window = self._window_of(span)
        reader = SegmentReader(
            self._store, self._transfers, segment, self.source, self._settled, base, window
        )  # fmt: skip
        self._readers[span] = reader
        if self.size > self._span and self._look is None:
            self._look = asyncio.get_running_loop().call_later(UNREAD, self._leave_unread)
        return reader

    def _leave_unread(self) -> None:
        self._leave(self._lately)
        self._lately.clear()
        more = self._readers and not self._closed
        loop = asyncio.get_running_loop()
        self._look = loop.call_later(UNREAD, self._leave_unread) if more else None

    def _window_of(self, span: int) -> Window:
        if span == 0 and not self._was_opened:
            self._was_opened = True
            return Window()
        before = self._readers.get(span - 1)
        return Window.at(self._span, None if before is None else before.window)

    async def _leave_idle(self, span: int) -> None:
        """Close what was not used for the longest time while there is too much to open ``span``,
        but not what is in front of it: that tells whether somebody reads on."""
        while self._is_crowded:
            idle = (n for n, r in self._readers.items() if not r.is_used and n != span - 1)
            number = next(idle, None)
            if number is None:
                return
            await self._readers.pop(number).close()

    @property
    def _is_crowded(self) -> bool:
        count = len(self._readers)
        return count >= MOST_OPEN or (
            count > 0 and (count + 1) * self._span > self._cache.capacity // 2
        )

    async def _segment(self, key: SegmentKey, size: int) -> Segment | None:
        """The segment, found, fetched or new; None if there is no room for a small file. Raises
        CacheError, CacheFull."""
        segment = self._smalls.find(key, size)
        if segment is None:
            if self.size > SMALL:
                return self._cache.create(key, size)
            segment = await self._fetch_small(key)
        if segment is not None and segment.needs_verify:
            # After a reboot, or when somebody touched the file: nothing unverified is served.
            try:
                await asyncio.to_thread(segment.verify)
            except BaseException:
                segment.close()
                raise
        return segment

    async def _fetch_small(self, key: SegmentKey) -> Segment | None:
        while True:
            source = self.source
            try:
                return await self._smalls.fetch(source, key)
            except (ObjectNotFound, PreconditionFailed):
                if await self._is_still(source):
                    raise

    async def _is_still(self, source: Source) -> bool:
        """Whether the file's bytes are to be had from there alone, although they are not there."""
        if self.source == source:
            await self._settled(source.key)
        return self.source == source

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
                result = await self._read_span(first, offset, end)
                return as_bytes(result) if self._closed else result
            pieces = []
            for span in range(first, last + 1):
                start = max(offset, span * self._span)
                stop = min(end, (span + 1) * self._span)
                pieces.append(as_bytes(await self._read_span(span, start, stop)))
            return b"".join(pieces)
        except (PreconditionFailed, ObjectNotFound) as error:
            raise FsError(errno.ESTALE, "the object changed while it was being read") from error
        finally:
            if self._closed:  # while this read was under way, which may have opened more
                await self.close()

    async def _read_span(self, span: int, offset: int, end: int) -> ReadResult:
        self.served += end - offset
        now = asyncio.get_running_loop().time()
        reader = await self.open_segment(span) if now >= self._past_cache_until else None
        base = span * self._span
        if reader is not None:
            try:
                hit = reader.segment.present(offset - base, end - offset)
                self._events.cache_read(*((end - offset, 0) if hit else (0, end - offset)))
                return await reader.read(offset - base, end - base)
            except CacheError as error:
                self._cache.bypass(error)
                if isinstance(error, CacheFull):
                    self._leave({span})
                else:
                    self._past_cache_until = now + PAST_CACHE
        # No room in the cache, or its disk fails: hand the bytes on without keeping them.
        while True:
            source = self.source
            try:
                return await self._past_cache.read(source, offset, end)
            except (ObjectNotFound, PreconditionFailed):
                if await self._is_still(source):
                    raise

    def _leave(self, kept: set[int]) -> None:
        """Let go of the segments that nobody reads but those."""
        for span in [s for s, r in self._readers.items() if s not in kept and not r.is_used]:
            self._readers.pop(span).stop()

    def passed(self, offset: int, size: int) -> range | None:
        """Those bytes were read; returns what of the file is worth less than the memory that the
        kernel has it in: what is behind a reader, while memory is dear."""
        end = min(offset + size, self.size)
        if offset >= end:
            return None
        return self._behind.note(offset, end, drop=self._cache.memory_is_dear)

    async def fill(self) -> bool:
        """Fetch the whole file into its one segment, which is read next; False if the cache has no
        room, or fails."""
        return self.size <= self._span and await self._fill_span(0, cached=True)

    async def fill_all(self) -> bool:
        """Fetch all segments of a file that may have many; False if the cache has no room, or
        fails."""
        for span in range(-(-self.size // self._span)):
            if not await self._fill_span(span, cached=False):
                return False
        return True

    async def _fill_span(self, span: int, *, cached: bool) -> bool:
        reader = await self.open_segment(span)
        if reader is None:
            return False
        try:
            await reader.fill(cached=cached)
        except CacheError as error:
            self._cache.bypass(error)
            return False
        except (PreconditionFailed, ObjectNotFound) as error:
            raise FsError(errno.ESTALE, "the object changed while it was being read") from error
        finally:
            if self._closed:  # as in a read
                await self.close()
        return reader.segment.complete

    async def surrender(self, stage_path: str) -> int | None:
        """Turn the complete segment into a staged file at ``stage_path`` without copying.

        Returns its descriptor, which the caller then owns, or None if another process reads the
        segment. The file must not be used afterwards.
        """
        for _ in range(TURNS):
            segment = self.segment
            if segment is None or not segment.complete or self._readers[0].is_used:
                return None
            try:
                fd = segment.detach(stage_path)
            except TurnTaken:
                await asyncio.sleep(0.001)
                continue
            if fd is not None:
                self._readers.clear()
                self._past_cache.close()
            return fd
        return None

    async def close(self) -> None:
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        self._past_cache.close()
        readers, self._readers = list(self._readers.values()), {}
        for reader in readers:
            reader.stop()  # all of them, even if whoever waits below does not wait to the end
        for reader in readers:
            await reader.close()
        if self.renamed:  # as long as it was open here its segments kept their names
            opened = self.source._replace(key=self._key, etag=self._etag)
            follow(self._cache, self._tenant, self._span, opened, self.source)
