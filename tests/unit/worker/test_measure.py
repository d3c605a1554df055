"""What a volume with a quota holds is counted until all of it was read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from csi_slayer.content.options import Live
from csi_slayer.errors import CacheFull, StoreUnavailable
from csi_slayer.worker import measure
from csi_slayer.worker.measure import Measuring


class Tree:
    """``errors``: what the next reads raise."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.read = 0

    async def __call__(self) -> None:
        self.read += 1
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        if seconds:
            slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    return slept


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)


def test_a_tree_that_could_not_be_read_is_read_again_until_it_was_whole(
    pauses: list[float],
) -> None:
    async def run() -> None:
        tree = Tree(StoreUnavailable("away"), CacheFull("no more names"), OSError(5, "error"))
        measuring = Measuring(Live(quota=1), tree)
        measuring.begin()
        measuring.begin()  # one reader is enough
        await _until(lambda: tree.read == 4)
        for _ in range(20):
            await asyncio.sleep(0)
        assert tree.read == 4
        measuring.begin()  # a quota was lifted and set again
        await _until(lambda: tree.read == 5)
        await measuring.close()

    asyncio.run(run())
    assert pauses == [2, 4, 8]


def test_the_pauses_have_a_limit_and_the_reading_ends_with_the_quota(pauses: list[float]) -> None:
    async def run() -> None:
        tree = Tree(*(StoreUnavailable("away") for _ in range(1000)))
        live = Live(quota=1)
        measuring = Measuring(live, tree)
        measuring.begin()
        await _until(lambda: tree.read == 20)
        live.quota = None
        read = tree.read
        for _ in range(20):
            await asyncio.sleep(0)
        assert tree.read <= read + 1
        await measuring.close()

    asyncio.run(run())
    assert max(pauses) == measure.PAUSE_MAX


def test_it_ends_with_the_mount() -> None:
    async def run() -> None:
        async def read() -> None:
            await asyncio.Event().wait()

        measuring = Measuring(Live(quota=1), read)
        await measuring.close()
        measuring.begin()
        await asyncio.sleep(0)
        await measuring.close()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(run())
