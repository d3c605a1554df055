"""Making staged copies durable: what of it is done in one turn of the event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from csi_slayer.catalog import Mark
from csi_slayer.content.durable import AT_ONCE, Durable


def test_many_due_files_are_looked_at_some_at_a_time(tmp_path: Path) -> None:
    """A burst of small files is due all at once, and everybody else waits meanwhile."""
    count = 10 * AT_ONCE
    work: list[int] = []  # in each turn
    marked = dict.fromkeys(range(count), int(Mark.UNSYNCED))

    async def find(ino: int) -> Any:
        work[-1] += 1
        return SimpleNamespace(ino=ino, stage=str(ino), flags=marked[ino])

    async def update(ino: int, *, clear: int) -> None:
        marked[ino] &= ~clear

    async def synced() -> None: ...

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            work.append(0)
            loop.call_soon(turn)

        turn()
        catalog = SimpleNamespace(find=find, update=update, synced=synced)
        staging = SimpleNamespace(directory=tmp_path)
        nothing = cast(Any, None)
        durable = Durable(cast(Any, catalog), nothing, nothing, cast(Any, staging), nothing)
        await durable._settle(range(count))

    asyncio.run(scenario())
    assert sum(work) == 2 * count
    assert max(work) <= 2 * AT_ONCE
    assert not any(marked.values())
