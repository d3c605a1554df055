"""Steps that fail and are taken again."""

from __future__ import annotations

import asyncio

import pytest

from csi_slayer.content import again
from csi_slayer.content.again import Again
from csi_slayer.content.opened import OpenInodes
from csi_slayer.errors import CacheFull


def test_those_that_fail_for_good_are_not_in_the_way_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(again, "PAUSE", 0.0)
    full, done = True, set()
    good = range(again.FAILURES, 3 * again.FAILURES)
    all_good = asyncio.Event()

    async def step(ino: int) -> None:
        if full or ino < again.FAILURES:
            raise CacheFull("no room")
        done.add(ino)
        if done == set(good):
            all_good.set()

    async def run() -> None:
        nonlocal full
        tasks = []
        later = Again(step, "later", OpenInodes(), lambda c: tasks.append(asyncio.create_task(c)))
        for ino in range(good.stop):
            await later.do(ino)
        assert len(tasks) == 1
        full = False
        async with asyncio.timeout(10):
            await all_good.wait()
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())
