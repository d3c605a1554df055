"""What inline volumes held is deleted, sooner or later, by this process or the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from csi_slayer.csi import emptying
from csi_slayer.csi.emptying import Emptying
from csi_slayer.errors import StoreUnavailable, VolumeBusy

ONE, TWO = (f"csi-{digit * 64}" for digit in "12")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emptying, "AGAIN_FIRST", 0.001)
    monkeypatch.setattr(emptying, "AGAIN_MAX", 0.002)


class Store:
    """Deletes when it is there. ``tried``: how often, and ``done``: which."""

    def __init__(self, *, away: int = 0) -> None:
        self.away = away
        self.tried = 0
        self.done: list[str] = []
        self.changed = asyncio.Event()

    async def delete(self, id: str) -> None:
        self.tried += 1
        if self.tried <= self.away:
            raise StoreUnavailable("S3 does not answer")
        self.done.append(id)
        self.changed.set()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(bounded())


def test_it_is_tried_until_it_is_done(tmp_path: Path) -> None:
    async def work() -> None:
        store = Store(away=4)
        it = Emptying(tmp_path, store.delete, lambda id: False)
        await it.start()
        await it.owe(ONE)
        assert not await it.at_once(ONE) and len(it) == 1
        await store.changed.wait()
        await it.close()
        assert store.done == [ONE]

    run(work)


def test_the_next_process_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        first = Emptying(tmp_path, Store(away=99).delete, lambda id: False)
        await first.owe(ONE)
        assert not await first.at_once(ONE)
        (tmp_path / "..nonsense").touch()
        store = Store()
        second = Emptying(tmp_path, store.delete, lambda id: False)
        await second.start()
        await store.changed.wait()
        await second.before_use(ONE)  # takes its turn after the deletion
        await second.close()
        assert store.done == [ONE] and len(second) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["..nonsense"]

    run(work)


def test_what_is_in_use_is_not_deleted(tmp_path: Path) -> None:
    async def work() -> None:
        store, used = Store(), {ONE}
        it = Emptying(tmp_path, store.delete, used.__contains__)
        await it.owe(ONE)
        await it.owe(TWO)
        assert not await it.at_once(ONE)
        await it.start()
        await store.changed.wait()
        await it.before_use(TWO)  # takes its turn after the deletion
        # Published again while its uploads were under way: nothing is to be deleted any more.
        await it.before_use(ONE)
        await it.close()
        assert store.done == [TWO] and len(it) == 0
        assert list(tmp_path.iterdir()) == []

    run(work)


def test_a_debt_that_cannot_be_written_down_is_not_taken_on(tmp_path: Path) -> None:
    async def work() -> None:
        (tmp_path / "file").touch()
        it = Emptying(tmp_path / "file/emptying", Store().delete, lambda id: False)
        with pytest.raises(VolumeBusy, match="try again"):
            await it.owe(ONE)
        assert len(it) == 0

    run(work)
