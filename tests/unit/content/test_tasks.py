"""Waiting for a task that goes on whatever happens to who waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from csi_slayer.content.tasks import outlast

LATER = 3600.0


async def _work(event: asyncio.Event, failure: Exception | None = None) -> None:
    await event.wait()
    if failure is not None:
        raise failure


def test_it_ends_with_the_task() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event))
        asyncio.get_running_loop().call_soon(event.set)
        await outlast(task, time.monotonic() + LATER)
        assert task.done()
        await outlast(task, time.monotonic() - 1)  # it is done: no matter when

    asyncio.run(scenario())


def test_it_raises_what_the_task_raised() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event, KeyError("x")))
        event.set()
        with pytest.raises(KeyError):
            await outlast(task, time.monotonic() + LATER)

    asyncio.run(scenario())


def test_the_task_outlives_a_deadline_and_a_cancelled_waiter() -> None:
    async def scenario() -> None:
        event = asyncio.Event()
        task = asyncio.ensure_future(_work(event))
        with pytest.raises(TimeoutError):
            await outlast(task, time.monotonic())
        waiter = asyncio.ensure_future(outlast(task, time.monotonic() + LATER))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not task.done()
        event.set()
        await outlast(task, time.monotonic() + LATER)

    asyncio.run(scenario())
