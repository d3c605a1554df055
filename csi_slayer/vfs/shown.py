"""Names that the kernel shows without asking, and until when.

On a volume without upcalls the kernel opens directories by itself, and what it keeps of their names
it takes for true until it is told otherwise (``fuse_readdir_cached`` of fs/fuse/readdir.c). So it
is told to drop them when their TTL is over; who lists the directory after that asks the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

KEPT = 1 << 17
"""Directories that are remembered. Of more than that the kernel drops those whose TTL is the next
to end, as soon as it can be told."""

AT_ONCE, PAUSE = 256, 0.05
"""Directories that the kernel drops at once, and the seconds until the next: a thread tells it of
them, one by one, from a queue with a limit."""


class Shown:
    """``ended(ino)``: the kernel is to drop the names of this directory; False if it has to be told
    later."""

    def __init__(self, ended: Callable[[int], bool], kept: int = KEPT) -> None:
        self._ended = ended
        self._kept = kept
        self._known: set[int] = set()
        self._queue: list[tuple[float, int]] = []  # a heap of those in _known
        self._timer: asyncio.TimerHandle | None = None

    def note(self, ino: int, seconds: float) -> None:
        """Names of a directory are given to the kernel that will be believed for so long.

        To be called at each request for some: the kernel uses what it keeps once it has the end of
        them, and when it asks for that it has all that were given before. So it has them when they
        end, although an answer may be on its way to it then."""
        if ino in self._known:
            return  # what it may have from an earlier reader ends sooner
        loop = asyncio.get_running_loop()
        self._known.add(ino)
        heappush(self._queue, (loop.time() + seconds, ino))
        if len(self._queue) > self._kept:
            self._end_next()
        if self._timer is None or self._queue[0][1] == ino:
            self._wake_at(self._queue[0][0])

    def _wake_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for _ in range(AT_ONCE):
            if not self._queue or self._queue[0][0] > now or not self._end_next():
                break
        if self._queue:
            self._wake_at(max(self._queue[0][0], now + PAUSE))

    def _end_next(self) -> bool:
        ino = self._queue[0][1]
        if not self._ended(ino):
            return False
        heappop(self._queue)
        self._known.remove(ino)
        return True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
