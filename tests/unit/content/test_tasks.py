"""Waiting for a task that goes on whatever happens to who waits."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from csi_slayer.content import tasks
from csi_slayer.content.tasks import Progress

LATER = 3600.0


def nothing() -> int:
    return 0


async def _work(event: asyncio.Event, failure: Exception | None = None) -> None:
    await event.wait()
    if failure is not None:
        raise failure


def test_it_ends_with_the_task() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event))
        asyncio.get_running_loop().call_soon(event.set)
        await Progress(nothing, LATER).outlast(task)
        assert task.done()
        await Progress(nothing, 0).outlast(task)  # it is done: no matter when

    asyncio.run(scenario())


def test_it_raises_what_the_task_raised() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event, KeyError("x")))
        event.set()
        with pytest.raises(KeyError):
            await Progress(nothing, LATER).outlast(task)

    asyncio.run(scenario())


def test_the_task_outlives_a_deadline_and_a_cancelled_waiter() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event))
        with pytest.raises(TimeoutError):
            await Progress(nothing, 0).outlast(task)
        waiter = asyncio.ensure_future(Progress(nothing, LATER).outlast(task))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not task.done()
        event.set()
        await Progress(nothing, LATER).outlast(task)

    asyncio.run(scenario())


def test_what_gets_on_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "LOOK", 0.001)

    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event))
        growing = itertools.count()
        progress = Progress(lambda: next(growing), 0.005)
        asyncio.get_running_loop().call_later(0.1, event.set)
        await progress.outlast(task)
        standing = iter([0, 1, 2, 3])
        task = asyncio.ensure_future(asyncio.Event().wait())
        with pytest.raises(TimeoutError):
            await Progress(lambda: next(standing, 3), 0.005).outlast(task)
        assert next(standing, None) is None
        task.cancel()

    asyncio.run(scenario())
