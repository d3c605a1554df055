"""Running coroutines side by side, and ending them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any


async def together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure cancels the others, waits for their end and is raised as it is
    (a TaskGroup would wrap it)."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def end_task(task: asyncio.Task[None] | None) -> None:
    """Cancel a task, if there is one, and wait for its end. Raises what it had failed with."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


LOOK = 1.0
"""Seconds between looks at whether something gets on."""


class Progress:
    """``moved()`` grows while something gets on; after ``seconds`` without that it does not."""

    def __init__(self, moved: Callable[[], int], seconds: float) -> None:
        self._moved = moved
        self._seconds = seconds
        self._last = moved()
        self._since = _now()

    async def outlast(self, task: asyncio.Task[None]) -> None:
        """Wait for a task, which goes on whatever happens to who waits; raises what it raised.

        Raises TimeoutError when nothing gets on any more.
        """
        while not task.done():
            deadline = self._since + self._seconds
            await _wait(task, min(LOOK, deadline - _now()))
            if (moved := self._moved()) != self._last:
                self._last, self._since = moved, _now()
            elif not task.done() and _now() >= deadline:
                raise TimeoutError
        task.result()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _wait(task: asyncio.Task[None], seconds: float) -> None:
    """Until the task is done, at most so long. Does what a shield within a timeout would do, for a
    third of the cost."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_task: asyncio.Task[None] | None = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(max(0.0, seconds), wake)
    task.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        task.remove_done_callback(wake)
