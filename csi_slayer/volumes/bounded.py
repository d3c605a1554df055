"""Many small operations with a limit on how many run at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def for_each(
    items: AsyncGenerator[T, None], work: Callable[[T], Awaitable[None]], limit: int
) -> None:
    """``work`` for each item, at most ``limit`` at a time; no item is asked for before there is
    room. The first error ends it: what runs is cancelled and waited for."""
    running: set[asyncio.Future[None]] = set()
    try:
        async with aclosing(items):
            async for item in items:
                while len(running) >= limit:
                    await _some(running)
                running.add(asyncio.ensure_future(work(item)))
        while running:
            await _some(running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _some(running: set[asyncio.Future[None]]) -> None:
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    failed = [task for task in done if task.exception() is not None]
    running -= done
    if failed:
        failed[0].result()
