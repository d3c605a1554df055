"""Small files fetched ahead: in order, so many at a time, and handed over open."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import Cache, SegmentKey
from csi_slayer.content import pace as pace_module
from csi_slayer.content.small import PREFETCHES, QUEUED, READY, READY_SIZE, SmallFetcher, Source
from csi_slayer.errors import StoreUnavailable
from csi_slayer.store.base import ObjectInfo


class Gate:
    """A store whose answers come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def get(
        self, key: str, *, offset: int = 0, length: int | None = None, if_match: str | None = None
    ) -> tuple[ObjectInfo, bytes]:
        self.asked.append(key)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future
        return ObjectInfo(key, 4, '"e"', 0), key[:4].encode()

    def answer(self, count: int) -> None:
        for future in self.waiting[:count]:
            future.set_result(None)
        del self.waiting[:count]


def nobody(source: Source, values: Mapping[str, str]) -> None: ...


def source(number: int) -> tuple[Source, SegmentKey]:
    key = f"{number:04d}"
    return Source(key, '"e"', 4), SegmentKey.of("t", key, '"e"')


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache(tmp_path / "cache", 1 << 30)
    yield opened
    opened.close()


def fetcher(gate: Any, cache: Cache) -> SmallFetcher:
    return SmallFetcher(gate, cache, nobody)


def test_what_is_beyond_the_places_waits_and_follows_by_itself(cache: Cache) -> None:
    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        taken = [smalls.prefetch(*source(n)) for n in range(PREFETCHES + QUEUED + 3)]
        assert taken == [True] * (PREFETCHES + QUEUED) + [False] * 3
        await settle()
        assert len(gate.asked) == PREFETCHES
        gate.answer(5)
        await settle()
        assert gate.asked == [f"{n:04d}" for n in range(PREFETCHES + 5)]
        while gate.waiting:
            gate.answer(7)
            await settle()
        assert len(gate.asked) == PREFETCHES + QUEUED
        assert all(cache.contains(source(n)[1]) for n in range(PREFETCHES + QUEUED))
        await smalls.close()

    asyncio.run(scenario())


def test_a_reader_does_not_wait_for_its_place_in_the_queue(cache: Cache) -> None:
    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        for number in range(PREFETCHES + 10):
            smalls.prefetch(*source(number))
        reader = asyncio.ensure_future(smalls.fetch(*source(PREFETCHES + 9)))
        await settle()
        assert gate.asked[-1] == f"{PREFETCHES + 9:04d}"
        while gate.waiting:
            gate.answer(100)
            await settle()
        segment = await reader
        assert segment is not None and segment.complete
        assert len(gate.asked) == len(set(gate.asked)) == PREFETCHES + 10
        segment.close()
        await smalls.close()

    asyncio.run(scenario())


def test_fetched_files_are_kept_open_until_they_are_asked_for(cache: Cache) -> None:
    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        smalls.prefetch(*source(1))
        await settle()
        gate.answer(1)
        await settle()
        assert len(cache.shared.opened) == 1
        segment = smalls.find(source(1)[1], 4)
        assert segment is not None and segment.complete
        segment.close()
        assert not cache.shared.opened
        await smalls.close()

    asyncio.run(scenario())


def test_so_many_are_kept_open_and_none_at_the_end(cache: Cache) -> None:
    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        for number in range(READY + 20):
            smalls.prefetch(*source(number))
            await settle()
            gate.answer(1)
            await settle()
        assert len(cache.shared.opened) == READY
        assert all(cache.contains(source(n)[1]) for n in range(READY + 20))
        await smalls.close()
        assert not cache.shared.opened

    asyncio.run(scenario())


def test_a_small_cache_is_not_held_by_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        cache = Cache(tmp_path / "small", 32 * READY_SIZE)
        gate = Gate()
        smalls = fetcher(gate, cache)
        for number in range(10):
            smalls.prefetch(*source(number))
            await settle()
            gate.answer(1)
            await settle()
        assert len(cache.shared.opened) == 2
        await smalls.close()
        cache.close()

    asyncio.run(scenario())


def test_an_end_while_files_are_being_fetched(cache: Cache) -> None:
    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        for number in range(PREFETCHES + 10):
            smalls.prefetch(*source(number))
        await settle()
        await smalls.close()
        assert len(gate.asked) == PREFETCHES

    asyncio.run(scenario())


def test_a_fetch_that_fails_after_its_reader_was_interrupted_is_nobodys_error(
    cache: Cache,
) -> None:
    """It was a line "Task exception was never retrieved" with a traceback."""
    said: list[str] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(str(what)))
        gate = Gate()
        smalls = fetcher(gate, cache)
        reader = asyncio.ensure_future(smalls.fetch(*source(1)))
        await settle()
        reader.cancel()
        await settle()
        assert reader.cancelled()
        gate.waiting[0].set_exception(StoreUnavailable("away"))
        await settle()
        gc.collect()
        await smalls.close()

    asyncio.run(scenario())
    assert not said


def test_what_is_not_kept_open_is_written_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is busy lets a write wait, and others with it on the event loop."""
    key, data = SegmentKey.of("t", "k", '"e"'), bytes(READY_SIZE + 1)
    threads: list[bool] = []
    pwrite = os.pwrite

    def watched(fd: int, data: Any, offset: int) -> int:
        threads.append(threading.current_thread() is threading.main_thread())
        return pwrite(fd, data, offset)

    class Store:
        async def get(self, key: str, **_options: object) -> tuple[ObjectInfo, bytes]:
            return ObjectInfo(key, len(data), '"e"', 0), data

    async def scenario() -> None:
        fetcher = SmallFetcher(Store(), cache, nobody)  # type: ignore[arg-type]
        segment = await fetcher.fetch(Source("k", '"e"', len(data)), key)
        assert segment is not None
        assert segment.complete
        segment.close()
        await fetcher.close()

    cache = Cache(tmp_path / "cache", 1 << 30)
    monkeypatch.setattr(os, "pwrite", watched)
    asyncio.run(scenario())
    assert set(threads) == {False}
    cache.close()


def test_a_disk_that_holds_up_who_writes_has_a_thread_wait(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tell, and the event loop waits no more."""
    monkeypatch.setattr(pace_module, "SLOW", 0.0)
    monkeypatch.setattr(pace_module, "REMEMBERED", 1000.0)
    threads: list[int] = []
    pwrite = os.pwrite

    def note(*args: Any) -> int:
        threads.append(threading.get_ident())
        return pwrite(*args)

    async def scenario() -> None:
        gate = Gate()
        smalls = fetcher(gate, cache)
        for number in range(3):
            reader = asyncio.ensure_future(smalls.fetch(*source(number)))
            await settle()
            gate.answer(1)
            segment = await reader
            assert segment is not None and segment.complete
            segment.close()
        await smalls.close()

    monkeypatch.setattr(os, "pwrite", note)
    try:
        asyncio.run(scenario())
    finally:
        vars(pace_module.pace).update(vars(pace_module.Pace()))
    assert threads[0] == threads[1] == threading.get_ident() != threads[-1]
