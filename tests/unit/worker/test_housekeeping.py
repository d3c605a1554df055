"""What a worker does every now and then goes on when something of it fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.errors import CatalogError
from csi_slayer.observability import Metrics
from csi_slayer.worker import housekeeping
from csi_slayer.worker.housekeeping import Housekeeping


class Catalog:
    """``broken`` says what fails."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.folded = self.pending = self.looked = 0

    def checkpoint(self) -> None:
        if "checkpoint" in self.broken:
            raise CatalogError("the disk is full")
        self.folded += 1

    def reset_journal(self) -> None: ...

    async def pending_count(self) -> int:
        self.pending += 1
        return self.pending

    async def look_after(self) -> None:
        if "look_after" in self.broken:
            raise FileNotFoundError
        self.looked += 1

    async def pending_oldest(self) -> None: ...

    def usage(self) -> int:
        if "usage" in self.broken:
            raise OSError(5, "Input/output error")
        return 4096


def mount(catalog: Catalog) -> Any:
    none = SimpleNamespace(value=0)
    events = SimpleNamespace(corrupt_blocks=none, corrupt_segments=none, evicted_bytes=none)
    return SimpleNamespace(
        control=catalog,
        metrics=Metrics(volume="v"),
        cache=SimpleNamespace(events=events, usage=lambda: SimpleNamespace(used=1)),
        fs=SimpleNamespace(catalog=catalog, content=SimpleNamespace(staging=catalog)),
        events=SimpleNamespace(store=SimpleNamespace(answers=True)),
    )


@pytest.mark.parametrize("broken", ["checkpoint", "usage", "look_after"])
def test_what_fails_once_is_done_again_and_all_else_meanwhile(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(housekeeping, "PERIOD", 0.0)

    async def until(is_so: Any) -> None:
        async with asyncio.timeout(30):
            while not is_so():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)

    async def run() -> None:
        catalog = Catalog()
        task = asyncio.create_task(Housekeeping(mount(catalog)).run())
        catalog.broken = {broken}
        if broken == "usage":
            await until(lambda: catalog.folded == 3)
            assert catalog.pending == 0
        else:
            await until(lambda: catalog.pending == 3)
            done = catalog.folded if broken == "checkpoint" else catalog.looked
            assert done == 0
        catalog.broken.clear()
        folded, pending, looked = catalog.folded, catalog.pending, catalog.looked
        await until(lambda: catalog.folded > folded and catalog.pending > pending)
        await until(lambda: catalog.looked > looked)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
