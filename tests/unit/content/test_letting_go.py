"""Segments that are let go of while transfers still write into them, and by whoever gives up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from csi_slayer.cache import BLOCK, SMALL, Cache
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.options import Live
from csi_slayer.content.segment_reader import Transfers
from csi_slayer.content.small import SmallFetcher, Source

SPAN = 4 * SMALL
MOST = 8
"""Segments of one file that are open at a time."""


class Held:
    """A store whose transfers do not end, even if they are cancelled, before the test says so."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.cancelled = 0

    async def fetch(self, key: str, **how: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            while not self.may_end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await self.may_end.wait()
            raise


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def nobody(key: str) -> None: ...


Scenario = Callable[[Held, CleanFile, Cache], Coroutine[Any, Any, None]]


def play(directory: Path, scenario: Scenario) -> None:
    """With as many segments open as may be, and transfers that nobody waits for any more."""

    async def run() -> None:
        store: Any = Held()
        cache = Cache(directory / "cache", 4 << 30)
        nothing: Any = None
        smalls = SmallFetcher(store, cache, nothing)
        source = Source("key", '"e"', 100 * SPAN)
        places = Transfers(0, Live())
        file = CleanFile(store, cache, smalls, "t", places, nothing, source, SPAN, nobody)
        try:
            for span in range(MOST):
                reader = await file.open_segment(span)
                assert reader is not None
                reading = asyncio.create_task(reader.read(0, BLOCK))
                await settle()
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            assert len(cache.shared.opened) == MOST
            await scenario(store, file, cache)
            await settle()
            assert not cache.shared.opened
        finally:
            store.may_end.set()
            await file.close()
            cache.close()

    asyncio.run(run())


def test_who_does_not_wait_for_the_end_of_another_segment_leaves_none_open(tmp_path: Path) -> None:
    async def scenario(store: Held, file: CleanFile, cache: Cache) -> None:
        opening = asyncio.create_task(file.open_segment(MOST))
        await settle()
        assert store.cancelled == 1
        opening.cancel()
        await settle()
        assert len(cache.shared.opened) == MOST, "a transfer still writes into the first"
        store.may_end.set()
        await asyncio.gather(opening, return_exceptions=True)
        await settle()
        assert len(cache.shared.opened) == MOST - 1
        await file.close()

    play(tmp_path, scenario)


def test_two_who_open_the_same_segment_get_the_same_reader(tmp_path: Path) -> None:
    async def scenario(store: Held, file: CleanFile, cache: Cache) -> None:
        opening = [asyncio.create_task(file.open_segment(MOST)) for _ in range(2)]
        await settle()
        store.may_end.set()
        first, second = await asyncio.gather(*opening)
        assert first is second
        await file.close()

    play(tmp_path, scenario)


def test_who_does_not_wait_for_the_end_of_a_file_has_all_its_segments_closed(
    tmp_path: Path,
) -> None:
    async def scenario(store: Held, file: CleanFile, cache: Cache) -> None:
        closing = asyncio.create_task(file.close())
        await settle()
        closing.cancel()
        await settle()
        assert len(cache.shared.opened) == MOST
        store.may_end.set()
        await asyncio.gather(closing, return_exceptions=True)

    play(tmp_path, scenario)
