"""Who shares which question to the store about a name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.vfs.questions import Question, Questions
from tests.unit.vfs.calls import Gate, read
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

KEY = (1, "name")


class Asked:
    """Questions that are answered when the test says so."""

    def __init__(self) -> None:
        self.over: list[asyncio.Task[None]] = []
        self.questions = Questions(self.over.append)
        self.forced: list[bool] = []
        self.answers: list[asyncio.Future[None]] = []

    def come(self, *, force: bool) -> Question:
        found = self.questions.find(KEY, force=force)
        return found or self.questions.begin(KEY, self._ask, force=force)

    async def _ask(self, forced: bool) -> None:
        self.forced.append(forced)
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_who_needs_the_answer_of_now_shares_only_what_is_not_asked_yet() -> None:
    async def run() -> None:
        asked = Asked()
        first = asked.come(force=False)
        assert asked.come(force=True) is first  # not asked yet, so it is asked as this one needs
        await turns()
        assert asked.forced == [True]
        assert asked.come(force=False) is first
        second = asked.come(force=True)
        assert second is not first
        assert asked.come(force=True) is second
        assert asked.come(force=False) is second
        await turns()
        assert len(asked.answers) == 1
        asked.answers[0].set_exception(OSError())
        await turns()
        assert asked.forced == [True, True]
        third = asked.come(force=True)
        assert third is not second
        assert len(asked.questions.tasks()) == 2
        asked.answers[1].set_result(None)
        await turns()
        asked.answers[2].set_result(None)
        await turns()
        assert (len(asked.questions), asked.questions.tasks()) == (0, [])
        assert [task.exception() is None for task in asked.over] == [False, True, True]

    asyncio.run(run())


def test_what_waits_can_be_given_up() -> None:
    async def run() -> None:
        asked = Asked()
        asked.come(force=True)
        await turns()
        asked.come(force=True)
        tasks = asked.questions.tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns()
        assert (len(tasks), len(asked.over), len(asked.questions)) == (2, 2, 0)

    asyncio.run(run())


@pytest.mark.parametrize("before", ["open", "look-up"])
def test_close_to_open_takes_no_answer_to_a_question_of_before(tmp_path: Path, before: str) -> None:
    """The store has answered it already; then the other node's close returns."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.live.close_to_open = True
    volume.bucket.objects["a"] = Blob(b"old", '"old"', 10**18, {})
    fs = volume.fs

    async def look_up() -> int:
        entry = await fs.lookup(volume.request(), ROOT, b"a")
        assert entry.attr is not None
        return entry.attr.ino

    async def run() -> None:
        ino = await look_up()
        assert await read(volume, ino) == b"old"
        if before == "look-up":
            gate = Gate(volume, "list_page", after=True)
            await volume.catalog.update(ino, checked_ns=1)
            await volume.catalog.update(ROOT, listed_ns=1)
            first = asyncio.create_task(look_up())
        else:
            gate = Gate(volume, "head", after=True)
            first = asyncio.create_task(fs.refresh.revalidate(await volume.catalog.get(ino)))
        await gate.reached.wait()
        gate.remove()
        volume.bucket.objects["a"] = Blob(b"new one", '"new"', 2 * 10**18, {})
        second = asyncio.create_task(read(volume, ino))
        await turns()
        gate.open.set()
        await first
        assert await second == b"new one"

    volume.run(run())
    volume.stop()
