"""Locks by key: one user at a time, and nothing is left of them."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.content.locks import Locks


def test_who_comes_while_the_lock_is_passed_on_waits_too() -> None:
    async def run() -> None:
        locks, inside, most = Locks[int](), 0, 0
        leave = {name: asyncio.Event() for name in "abc"}

        async def use(name: str) -> None:
            nonlocal inside, most
            with locks.of(7) as lock:
                async with lock:
                    inside += 1
                    most = max(most, inside)
                    await leave[name].wait()
                    inside -= 1

        first, second = (asyncio.create_task(use(name)) for name in "ab")
        await asyncio.sleep(0)
        leave["a"].set()
        await first
        assert 7 in locks
        third = asyncio.create_task(use("c"))
        for name in "bc":
            for _ in range(5):
                await asyncio.sleep(0)
            leave[name].set()
        await asyncio.gather(second, third)
        assert most == 1
        assert 7 not in locks

    asyncio.run(run())


def test_who_does_not_wait_to_the_end_leaves_nothing() -> None:
    async def run() -> None:
        locks = Locks[str]()

        async def use() -> None:
            with locks.of("key") as lock:
                async with lock:
                    raise KeyError("inside")

        with locks.of("key") as lock:
            await lock.acquire()
            waiting = asyncio.create_task(use())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert "key" in locks
            lock.release()
        assert "key" not in locks
        with pytest.raises(KeyError):
            await use()
        assert "key" not in locks

    asyncio.run(run())
