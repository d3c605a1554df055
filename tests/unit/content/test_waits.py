"""Attempts that wait for each other."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.content.waits import Waits


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_a_chain_that_would_close_is_found() -> None:
    asyncio.run(_chain())


async def _chain() -> None:
    waits = Waits()
    never = asyncio.ensure_future(_forever())
    waiting = [
        asyncio.ensure_future(waits.wait(key, target, never)) for key, target in ["ab", "bc"]
    ]
    await asyncio.sleep(0)
    assert waits.would_cycle("c", "a")
    assert waits.would_cycle("x", "x")
    assert not waits.would_cycle("a", "c")
    assert not waits.would_cycle("x", "a")
    waits.free("b")
    await waiting[1]
    assert not waits.would_cycle("c", "a")
    assert not waiting[0].done()
    waiting[0].cancel()
    await asyncio.wait(waiting)
    assert not waits.would_cycle("b", "a")
    assert not never.done()
    never.cancel()


def test_the_error_of_what_was_waited_for_is_raised() -> None:
    async def fail() -> None:
        raise OSError("no")

    async def wait() -> None:
        await waits.wait("a", "b", asyncio.ensure_future(fail()))

    waits = Waits()
    with pytest.raises(OSError, match="no"):
        asyncio.run(wait())
    assert not waits.would_cycle("b", "a")
