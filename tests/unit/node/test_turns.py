"""Calls of one volume take turns; calls of others do not wait for them."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.errors import VolumeBusy
from csi_slayer.node.turns import MOST, Turns


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20))
def test_one_at_a_time_and_each_to_its_end(calls: list[tuple[str, bool]]) -> None:
    async def run() -> None:
        turns = Turns()
        inside: set[str] = set()
        done: list[int] = []

        async def work(number: int, key: str) -> int:
            assert key not in inside
            inside.add(key)
            await asyncio.sleep(0)
            inside.discard(key)
            done.append(number)
            return number

        waiting = []
        for number, (key, give_up) in enumerate(calls):
            task = asyncio.create_task(turns.do(key, work(number, key)))
            await asyncio.sleep(0)
            if give_up:
                task.cancel()
            waiting.append((task, give_up, number))
        for task, give_up, number in waiting:
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            assert give_up or result == number
        while len(done) < len(calls):  # noqa: ASYNC110 - nobody says so
            await asyncio.sleep(0)
        await turns.close()

    asyncio.run(run())


def test_other_keys_do_not_wait_and_errors_are_the_callers() -> None:
    async def run() -> None:
        turns = Turns()
        release = asyncio.Event()

        async def block() -> None:
            await release.wait()

        async def fail() -> None:
            raise ValueError("mine")

        first = asyncio.create_task(turns.do("a", block()))
        with pytest.raises(ValueError, match="mine"):
            await turns.do("b", fail())
        assert not first.done()
        release.set()
        await first

    asyncio.run(run())


def test_closing_ends_what_runs_and_what_waits() -> None:
    async def run() -> None:
        turns = Turns()
        ended = []

        async def forever(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        tasks = [turns.begin("a", forever("first")), turns.begin("a", forever("second"))]
        await asyncio.sleep(0)
        await turns.close()
        assert all(task.cancelled() for task in tasks)
        assert ended == ["first"]

    asyncio.run(run())


def test_what_nobody_waits_for_any_more_does_not_pile_up() -> None:
    async def run() -> None:
        turns = Turns()
        release = asyncio.Event()

        async def block() -> None:
            await release.wait()

        for _ in range(MOST):
            call = asyncio.create_task(turns.do("a", block()))
            await asyncio.sleep(0)
            call.cancel()
        with pytest.raises(VolumeBusy):
            await turns.do("a", block())
        release.set()
        await turns.do("b", block())
        await turns.begin("a", block())  # behind all of them
        await turns.do("a", block())

    asyncio.run(run())
