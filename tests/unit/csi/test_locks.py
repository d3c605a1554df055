"""One at a time per key, bounded waits, nothing kept."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.csi.locks import MOST_WAITING, KeyedLocks
from csi_slayer.errors import VolumeBusy


def run(coroutine: object) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await coroutine  # type: ignore[misc]

    asyncio.run(bounded())


def test_second_of_a_key_waits_and_other_keys_do_not() -> None:
    async def check() -> None:
        locks, order, go = KeyedLocks(), [], asyncio.Event()

        async def use(key: str, name: str, wait: bool) -> None:
            async with locks.hold(key):
                order.append(f"+{name}")
                if wait:
                    await go.wait()
                order.append(f"-{name}")

        first = asyncio.create_task(use("a", "1", True))
        await asyncio.sleep(0)
        second = asyncio.create_task(use("a", "2", False))
        await use("b", "3", False)
        assert order == ["+1", "+3", "-3"]
        go.set()
        await asyncio.gather(first, second)
        assert order == ["+1", "+3", "-3", "-1", "+2", "-2"]
        assert len(locks) == 0

    run(check())


def test_whoever_waits_too_long_is_told_to_come_again() -> None:
    async def check() -> None:
        locks = KeyedLocks(longest_wait=0.01)
        async with locks.hold("a"):
            with pytest.raises(VolumeBusy, match="try again"):
                async with locks.hold("a"):
                    pytest.fail("held twice")
        assert len(locks) == 0

    run(check())


def test_too_many_waiting_are_refused_at_once() -> None:
    async def check() -> None:
        locks, entered = KeyedLocks(), 0

        async def use() -> None:
            nonlocal entered
            async with locks.hold("a"):
                entered += 1

        async with locks.hold("a"):
            waiting = [asyncio.create_task(use()) for _ in range(MOST_WAITING)]
            await asyncio.sleep(0)
            with pytest.raises(VolumeBusy, match="too many"):
                await use()
        await asyncio.gather(*waiting)
        assert entered == MOST_WAITING and len(locks) == 0

    run(check())


def test_a_cancelled_waiter_leaves_nothing_behind() -> None:
    async def check() -> None:
        locks = KeyedLocks()
        async with locks.hold("a"):
            waiter = asyncio.create_task(locks.hold("a").__aenter__())
            await asyncio.sleep(0)
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        async with asyncio.timeout(5), locks.hold("a"):
            pass
        assert len(locks) == 0

    run(check())
