"""Blocking work in threads, such that cancelling really ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def run_in_thread(executor: Executor, work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of ``work``, done by the executor.

    Cancelled, it calls ``stop``, which must make the work end soon, and returns only when the
    thread has let go of everything: a descriptor or buffer of the caller is then his again.
    """
    submitted = executor.submit(work)
    waiter = asyncio.wrap_future(submitted)
    try:
        return await asyncio.shield(waiter)
    except asyncio.CancelledError:
        stop()
        submitted.cancel()  # if no thread has begun it
        while not waiter.done():
            try:
                await asyncio.wait([waiter])
            except asyncio.CancelledError:
                continue  # cancelled again: the thread is still at it
        if not waiter.cancelled():
            waiter.exception()  # retrieved: nobody will ask
        raise
