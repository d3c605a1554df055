"""Calls of one volume one after the other, each to its end."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

from csi_slayer.errors import VolumeBusy

Result = TypeVar("Result")

MOST = 64
"""Calls of one volume that wait or are worked on: a caller that gives up leaves its work behind."""


class Turns:
    """Work by key. It goes on when whoever waits for it goes away, until :meth:`close`."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def do(self, key: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Do it when all that came before it for the same key is done. Raises VolumeBusy if that
        is too much."""
        if self._waiting[key] >= MOST:
            work.close()
            raise VolumeBusy("too many calls wait for this volume on this node: try again later")
        return await asyncio.shield(self.begin(key, work))

    def begin(self, key: str, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """:meth:`do` without waiting."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        task = asyncio.create_task(_turn(lock, work))
        self._tasks.add(task)
        self._waiting[key] += 1
        task.add_done_callback(lambda done: self._done(key, done))
        return task

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, key: str, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._waiting[key] -= 1
        if not self._waiting[key]:
            del self._waiting[key]
        if not task.cancelled():
            task.exception()  # whoever waited may have gone away


async def _turn(lock: asyncio.Lock, work: Coroutine[Any, Any, Result]) -> Result:
    try:
        async with lock:
            return await work
    finally:
        work.close()  # if it was cancelled before it began
