"""What is read past the cache, because that has no room or its disk fails.

Each of the kernel's small reads would be a request to the store. So for who reads in sequence more
is fetched at once here, too, and kept in memory: two ranges of a file at most, for the kernel's
requests come a little out of order, and of all files together no more than a limit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from csi_slayer.content.options import Live
from csi_slayer.content.small import Source
from csi_slayer.scheduling.window import Window
from csi_slayer.store.base import ObjectStore

MOST = 64 << 20
"""Bytes that all files of a volume keep at a time."""

LARGEST = 4 << 20
"""Bytes of one range at most."""

RESTS = 2.0
"""Seconds after which a file that nobody has read past the cache has no share of the memory."""


class _Range(NamedTuple):
    start: int
    end: int
    source: Source
    task: asyncio.Task[bytes]


class Memory:
    """What the files of a volume have in memory: nothing new while that is not to fetch ahead.
    All calls from the event loop."""

    def __init__(self, live: Live | None = None, most: int = MOST) -> None:
        self._live = live or Live()
        self._most = most
        self._files: dict[PastCache, float] = {}  # when they were used, in that order
        self.taken = 0

    def share(self, file: PastCache) -> int:
        """Bytes of the next range of ``file``, which counts as used now; it is 0 if others wait for
        theirs and there is no room. What nobody has used for the longest time makes room."""
        if not self._live.prefetch:
            return 0
        now = asyncio.get_running_loop().time()
        self._files.pop(file, None)
        self._files[file] = now
        sharing = sum(now - used <= RESTS for used in self._files.values())
        size = min(LARGEST, self._most // (2 * sharing))
        for other in list(self._files):
            if self.taken + size <= self._most:
                break
            other.forget()
        return size if self.taken + size <= self._most else 0

    def leave(self, file: PastCache) -> None:
        self._files.pop(file, None)


class PastCache:
    """Reads of one file past the cache."""

    def __init__(self, store: ObjectStore, memory: Memory) -> None:
        self._store = store
        self._memory = memory
        self._window = Window()
        self._ranges: deque[_Range] = deque()

    async def read(self, source: Source, offset: int, end: int) -> bytes:
        """Bytes [offset, end) of the object. Raises what a GET with If-Match raises."""
        ahead = min(self._window.note(offset, end, stalled=True), source.size)
        found = next((r for r in self._ranges if r.start <= offset < r.end), None)
        if found is None:
            room = self._memory.share(self) if ahead > end and self._has_place else 0
            behind = [r.start for r in self._ranges if r.start > offset]
            stop = min(ahead, offset + room, *behind)
            if stop <= end:
                return await self._get(source, offset, end)
            found = self._fetch(source, offset, stop)
        # Not cancelled with who waits: others may, too.
        await asyncio.wait((found.task,))
        if found.task.cancelled() or (found.source != source and found.task.exception()):
            return await self._get(source, offset, end)
        data = found.task.result()[offset - found.start : end - found.start]
        return data if end <= found.end else data + await self.read(source, found.end, end)

    @property
    def _has_place(self) -> bool:
        """Whether there is place for a range, or one that nobody waits for."""
        return len(self._ranges) < 2 or self._ranges[0].task.done()

    async def _get(self, source: Source, offset: int, end: int) -> bytes:
        _info, data = await self._store.get(
            source.key, offset=offset, length=end - offset, if_match=source.etag
        )
        return data

    def _fetch(self, source: Source, start: int, end: int) -> _Range:
        if len(self._ranges) > 1:
            self._drop()
        task = asyncio.get_running_loop().create_task(self._get(source, start, end))
        task.add_done_callback(self._ended)
        self._ranges.append(_Range(start, end, source, task))
        self._memory.taken += end - start
        return self._ranges[-1]

    def _ended(self, task: asyncio.Task[bytes]) -> None:
        if task.cancelled() or task.exception() is not None:
            for failed in [r for r in self._ranges if r.task is task]:
                self._ranges.remove(failed)  # who reads this next asks again
                self._memory.taken -= failed.end - failed.start

    def _drop(self) -> None:
        dropped = self._ranges.popleft()
        dropped.task.cancel()  # who waits for it asks by himself
        self._memory.taken -= dropped.end - dropped.start

    def forget(self) -> None:
        """Let go of what nobody waits for."""
        while self._ranges and self._ranges[0].task.done():
            self._drop()

    def close(self) -> None:
        """Let go of everything."""
        while self._ranges:
            self._drop()
        self._memory.leave(self)
