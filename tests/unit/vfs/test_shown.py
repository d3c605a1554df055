"""Until when the kernel shows names without asking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from csi_slayer.vfs.shown import AT_ONCE, PAUSE, Shown
from tests.unit.vfs.loop import InstantLoop


@pytest.fixture
def loop() -> Iterator[InstantLoop]:
    loop = InstantLoop()
    yield loop
    loop.close()


class Kernel(list[int]):
    """Directories that it was told of; while it is ``stuck`` it cannot be."""

    stuck = False

    def told(self, ino: int) -> bool:
        if not self.stuck:
            self.append(ino)
        return not self.stuck


@pytest.fixture
def ended() -> Kernel:
    return Kernel()


async def until(seconds: float) -> None:
    """The loop's time goes on to this."""
    await asyncio.sleep(seconds - asyncio.get_running_loop().time())


def test_each_ends_at_its_time_and_once(loop: InstantLoop, ended: Kernel) -> None:
    async def run() -> None:
        shown = Shown(ended.told)
        for ino, seconds in ((1, 30.0), (2, 10.0), (3, 20.0), (2, 40.0)):
            shown.note(ino, seconds)
        for seconds, wanted in ((9.0, []), (11.0, [2]), (21.0, [2, 3]), (99.0, [2, 3, 1])):
            await until(seconds)
            assert ended == wanted
        shown.note(2, 0.0)
        await until(100.0)
        assert ended == [2, 3, 1, 2]

    loop.run_until_complete(run())


def test_many_that_end_together_do_so_one_part_after_the_other(
    loop: InstantLoop, ended: Kernel
) -> None:
    async def run() -> None:
        shown = Shown(ended.told)
        for ino in range(AT_ONCE * 3):
            shown.note(ino, 10.0)
        for part in (1, 2, 3):
            await until(10.0 + PAUSE * (part - 0.5))
            assert len(ended) == AT_ONCE * part

    loop.run_until_complete(run())
    assert sorted(ended) == list(range(AT_ONCE * 3))


def test_of_too_many_the_next_to_end_ends_at_once(loop: InstantLoop, ended: Kernel) -> None:
    async def run() -> None:
        shown = Shown(ended.told, kept=2)
        for ino, seconds in ((1, 30.0), (2, 10.0), (3, 20.0)):
            shown.note(ino, seconds)
        assert ended == [2]
        await until(21.0)
        assert ended == [2, 3]
        shown.close()

    loop.run_until_complete(run())


@pytest.mark.parametrize("kept", [2, 10])
def test_what_the_kernel_could_not_be_told_it_is_told_later(
    loop: InstantLoop, ended: Kernel, kept: int
) -> None:
    """Too many invalidations wait, because a page is locked whose read waits for the store."""

    async def run() -> None:
        shown = Shown(ended.told, kept=kept)
        ended.stuck = True
        for ino in range(5):
            shown.note(ino, 10.0 + ino)
        await until(60.0)
        ended.stuck = False
        await until(61.0)
        assert ended == [0, 1, 2, 3, 4]
        shown.note(3, 10.0)
        await until(80.0)
        assert ended == [0, 1, 2, 3, 4, 3]

    loop.run_until_complete(run())
