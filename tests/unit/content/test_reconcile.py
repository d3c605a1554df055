"""A pass over pending keys, of which there may be millions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from csi_slayer.catalog import Pending
from csi_slayer.content.options import ContentOptions
from csi_slayer.content.reconcile import PAGE, TURN, Reconciler


def test_a_pass_lets_others_come_between_the_keys_of_a_page() -> None:
    count = 2 * PAGE + 1
    rows = [Pending(f"{number:04d}", "", 1, 0, None, "t", 0) for number in range(count)]
    looks: list[int] = []  # in each turn of the event loop
    seen: list[str] = []

    async def pendings(after: str, limit: int) -> list[Pending]:
        return [row for row in rows if row.key > after][:limit]

    async def resolve(key: str) -> Any:
        looks[-1] += 1
        seen.append(key)
        return SimpleNamespace(ino=1)

    async def origins_among(keys: list[str]) -> set[str]:
        return set()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            looks.append(0)
            loop.call_soon(turn)

        turn()
        catalog = SimpleNamespace(pendings=pendings, resolve=resolve, origins_among=origins_among)
        objects = SimpleNamespace(moving=set())
        opened = SimpleNamespace(is_writing=lambda _ino: True)
        reconciler = Reconciler(
            cast(Any, catalog), cast(Any, objects), cast(Any, opened),
            ContentOptions("volume", "tenant"), lambda: 0,
        )  # fmt: skip
        await reconciler._pass()
        await reconciler.close()

    asyncio.run(scenario())
    assert sorted(set(seen)) == [row.key for row in rows]
    assert max(looks) <= 2 * TURN  # is it to be deleted, and is it being written?
