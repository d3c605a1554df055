"""Small files: fetched whole, once, by whoever asks first."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from csi_slayer.cache import Cache, Segment, SegmentKey
from csi_slayer.content.pace import pace
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ObjectStore

PREFETCHES, QUEUED = 24, 64
"""Small files fetched ahead at the same time, and most that wait for their turn."""

READY, READY_SIZE = 128, 64 << 10
"""Most segments of files fetched lately that are kept open for who asked for them, and the bytes
of the largest such file: opening one anew costs half as much as making it. Never more than a
sixteenth of the cache: what is open cannot be evicted."""

AHEAD_PART = 8
"""What is fetched ahead at once is no more than this part of the cache: of more, the first would be
evicted before it is used."""


class Source(NamedTuple):
    """Where a version's bytes are in the store, and whose they are."""

    key: str
    etag: str
    size: int
    ino: int = 0


Seen = Callable[[Source, Mapping[str, str]], None]


class SmallFetcher:
    """Single-flight GETs of whole small objects into the cache.

    ``seen`` is told the user metadata that came with each object.
    """

    def __init__(self, store: ObjectStore, cache: Cache, seen: Seen) -> None:
        self._store = store
        self._cache = cache
        self._seen = seen
        self._running: dict[SegmentKey, asyncio.Task[bool]] = {}
        self._prefetching = 0
        self._queue: deque[tuple[Source, SegmentKey]] = deque()
        self._ready: OrderedDict[SegmentKey, Segment] = OrderedDict()
        self.room = cache.capacity // AHEAD_PART
        self._ready_most = min(READY, cache.capacity // (16 * READY_SIZE))

    def find(self, key: SegmentKey, size: int) -> Segment | None:
        """The segment that the cache has; None if it has none."""
        segment = self._cache.find(key, size)
        ready = self._ready.pop(key, None)
        if ready is not None:
            ready.close()
        return segment

    async def fetch(self, source: Source, key: SegmentKey) -> Segment | None:
        """The segment of an object that the cache lacked; None if the cache has no room, or
        fails."""
        task = self._running.get(key) or self._start(source, key)
        stored = await asyncio.shield(task)
        return self.find(key, source.size) if stored else None

    def prefetch(self, source: Source, key: SegmentKey) -> bool:
        """Fetch ahead, as soon as a place is free; False if enough is waiting already."""
        if self._prefetching >= PREFETCHES:
            if len(self._queue) >= QUEUED:
                return False
            self._queue.append((source, key))
        elif key not in self._running and not self._cache.contains(key):
            self._prefetching += 1
            self._start(source, key).add_done_callback(self._prefetched)
        return True

    def _prefetched(self, task: asyncio.Task[bool]) -> None:
        self._prefetching -= 1
        if task.cancelled():
            return
        # Not only when the reader comes again: while it waits the store would have nothing to do.
        while self._queue and self._prefetching < PREFETCHES:
            self.prefetch(*self._queue.popleft())

    def _start(self, source: Source, key: SegmentKey) -> asyncio.Task[bool]:
        task = asyncio.get_running_loop().create_task(self._get(source, key))
        self._running[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: SegmentKey, task: asyncio.Task[bool]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            # Looked at: a failed guess is nobody's error, for the reader will ask again, and a
            # reader that was interrupted asks for none.
            task.exception()

    async def _get(self, source: Source, key: SegmentKey) -> bool:
        # As a range: then an answer of another length is noticed, and asked for again.
        info, data = await self._store.get(source.key, length=source.size, if_match=source.etag)
        if len(data) != source.size:
            raise StoreIntegrityError(
                f"{source.key!r}: got {len(data)} bytes of an object of {source.size}"
            )
        if info.metadata:
            self._seen(source, info.metadata)
        if len(data) > READY_SIZE or pace.is_slow:
            return await to_its_end(lambda _unwanted: self._cache.store_small(key, data))
        begun = time.perf_counter()
        segment = self._cache.put_small(key, data)
        pace.took(time.perf_counter() - begun)
        if segment is None:
            return False
        older = self._ready.pop(key, None)
        if older is not None:
            older.close()
        self._ready[key] = segment
        if len(self._ready) > self._ready_most:
            self._ready.popitem(last=False)[1].close()
        return True

    async def close(self) -> None:
        self._queue.clear()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._ready:
            self._ready.popitem()[1].close()
