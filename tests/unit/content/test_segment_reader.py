"""The transfers that fill a segment: what they take they give back, however they end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import BLOCK, Cache, Segment, SegmentKey
from csi_slayer.content import segment_reader
from csi_slayer.content.options import Live
from csi_slayer.content.segment_reader import CHUNK, SegmentReader, Transfers
from csi_slayer.content.small import Source
from csi_slayer.errors import CacheFull, StoreUnavailable
from tests.unit.vfs.memory_store import Blob, Bucket, MemoryStore

SIZE = 64 << 20
CACHED = 4 << 20
"""Bytes at the beginning of each object that the cache has."""


class Endless:
    """A store whose answers never come."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self, key: str, **how: Any) -> None:
        self.asked += 1
        await asyncio.get_running_loop().create_future()


class Places(Transfers):
    """Six, and how often one was taken."""

    def __init__(self, live: Live | None = None) -> None:
        super().__init__(6, live or Live())
        self.taken = 0

    def try_take(self) -> bool:
        taken = super().try_take()
        self.taken += taken
        return taken


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache(tmp_path / "cache", 4 << 30)
    yield opened
    opened.close()


async def nobody(key: str) -> None: ...


def begun(cache: Cache, key: str) -> Segment:
    """A segment with a beginning that an earlier reader has left."""
    segment = cache.create(SegmentKey.of("t", key, '"e"', 0), SIZE)
    for at in range(0, CACHED, BLOCK):
        segment.write_block(at, bytes(BLOCK))
    return segment


def reader(store: Any, transfers: Transfers, segment: Segment, key: str) -> SegmentReader:
    return SegmentReader(store, transfers, segment, Source(key, '"e"', SIZE), nobody)


def test_who_closes_a_file_at_once_leaves_the_places_of_readahead_free(cache: Cache) -> None:
    """The last read has begun transfers, whose tasks have not run when they are cancelled."""

    async def run() -> None:
        places, store = Places(), Endless()
        for number in range(10):
            one = reader(store, places, begun(cache, f"k{number}"), f"k{number}")
            offset, before = 0, places.taken
            while offset < CACHED and places.taken == before:
                await one.read(offset, offset + BLOCK)
                offset += BLOCK
            assert places.taken > before
            await one.close()
        assert store.asked == 0
        assert [places.try_take() for _ in range(7)] == [True] * 6 + [False]

    asyncio.run(run())


class Away:
    """A store that is not to be reached."""

    def __init__(self) -> None:
        self.asked = 0

    async def fetch(self, key: str, **how: Any) -> None:
        self.asked += 1
        raise StoreUnavailable("nobody there")


def test_who_waits_for_the_same_page_fails_with_who_asked_first(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel lets one after the other ask, and each would wait for the store."""

    async def run() -> None:
        store, segment = Away(), begun(cache, "key")
        one = reader(store, Transfers(0, Live()), segment, "key")

        async def fails(at: int) -> int:
            with pytest.raises(StoreUnavailable, match="nobody there"):
                await one.read(at, at + BLOCK)
            return store.asked

        monkeypatch.setattr(segment_reader, "TOGETHER", 60.0)
        assert [await fails(CACHED) for _ in range(5)] == [1] * 5
        assert await fails(CACHED + (8 << 20)) == 2  # another place
        await one.read(0, BLOCK)  # what is here
        monkeypatch.setattr(segment_reader, "TOGETHER", 0.0)
        one._failed = None
        assert [await fails(CACHED) for _ in range(3)] == [3, 4, 5]
        await one.close()

    asyncio.run(run())


def test_what_was_fetched_ahead_in_vain_is_asked_for_again(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has waited for the store yet."""
    monkeypatch.setattr(segment_reader, "TOGETHER", 60.0)

    async def run() -> None:
        store, segment = Away(), begun(cache, "key")
        one = reader(store, Transfers(1, Live()), segment, "key")
        one._transfers.try_take()
        one._launch(CACHED, CACHED + BLOCK, ahead=True)
        await asyncio.wait([one._running[0].task])
        with pytest.raises(StoreUnavailable):
            await one.read(CACHED, CACHED + BLOCK)
        assert store.asked > 1
        await one.close()

    asyncio.run(run())


class Counting(MemoryStore):
    """An object of zeros, and the ranges that were asked of it."""

    def __init__(self) -> None:
        super().__init__(Bucket({"key": Blob(bytes(SIZE), '"e"', 1, {})}))
        self.ranges: list[tuple[int, int]] = []

    async def fetch(self, key: str, **how: Any) -> None:
        self.ranges.append((how["offset"], how["offset"] + how["length"]))
        await super().fetch(key, **how)


STEP = 7 * BLOCK
"""What the kernel asks for at once: pieces of its own readahead."""


async def in_sequence(one: SegmentReader, start: int, end: int) -> None:
    for at in range(start, end, STEP):
        await one.read(at, min(at + STEP, end))


@pytest.mark.parametrize("places", [0, 6])
def test_a_reader_in_sequence_asks_for_large_pieces(cache: Cache, places: int) -> None:
    """Also where others have all transfers of the readahead, and so for a piece only when it is
    the first one to wait there."""

    async def run() -> None:
        store = Counting()
        segment = cache.create(SegmentKey.of("t", "key", '"e"', 0), SIZE)
        one = reader(store, Transfers(places, Live()), segment, "key")
        await in_sequence(one, 0, SIZE)
        await one.close()
        ranges = sorted(store.ranges)
        assert [start for start, _ in ranges] == [0] + [end for _, end in ranges[:-1]]
        assert ranges[-1][1] == SIZE
        sizes = [end - start for start, end in ranges]
        small = [size for size in sizes if size < CHUNK // 4]
        assert len(small) <= 4, sizes  # of the beginning, and the last one
        assert len(sizes) <= 14, sizes

    asyncio.run(run())


def test_without_readahead_only_what_is_read_is_fetched(cache: Cache) -> None:
    async def run() -> None:
        store = Counting()
        segment = cache.create(SegmentKey.of("t", "key", '"e"', 0), SIZE)
        one = reader(store, Transfers(6, Live(prefetch=False)), segment, "key")
        await in_sequence(one, 0, 32 << 20)
        await one.close()
        assert sum(end - start for start, end in store.ranges) == 32 << 20

    asyncio.run(run())


def test_who_reads_here_and_there_gets_what_he_reads(cache: Cache) -> None:
    async def run() -> None:
        store = Counting()
        segment = cache.create(SegmentKey.of("t", "key", '"e"', 0), SIZE)
        one = reader(store, Transfers(6, Live()), segment, "key")
        places = range(SIZE - STEP, 0, -(6 << 20))
        for at in places:
            await one.read(at, at + STEP)
        await one.close()
        assert sum(end - start for start, end in store.ranges) <= (STEP + BLOCK) * len(places)

    asyncio.run(run())


@pytest.mark.parametrize("prefetch", [True, False])
def test_who_wants_all_leaves_the_transfers_to_others(cache: Cache, prefetch: bool) -> None:
    """Many may want all of a file at once, and what is read waits behind what they ask for."""

    async def run() -> None:
        store, places = Endless(), Places(Live(prefetch=prefetch))
        readers = [reader(store, places, begun(cache, f"k{n}"), f"k{n}") for n in range(5)]
        fills = [asyncio.ensure_future(one.fill(cached=False)) for one in readers]
        await asyncio.sleep(0.01)
        assert store.asked == (len(readers) + 6 if prefetch else 4 * len(readers))
        for fill in fills:
            fill.cancel()
        await asyncio.gather(*fills, return_exceptions=True)
        for one in readers:
            await one.close()

    asyncio.run(run())


def test_nothing_is_fetched_for_a_cache_that_has_no_room(tmp_path: Path) -> None:
    """What is open cannot be evicted. The first one waits for room in vain; those that come in the
    next moment are told so before they ask the store."""

    async def run() -> None:
        small = Cache(tmp_path / "small", 32 * BLOCK)
        store = Counting()
        segment = small.create(SegmentKey.of("t", "key", '"e"', 0), SIZE // 32)
        one = reader(store, Transfers(6, Live()), segment, "key")
        small.shared.ledger.reserve(31 * BLOCK)
        with pytest.raises(CacheFull):
            await one.read(0, 16 * BLOCK)
        asked = len(store.ranges)
        for at in range(0, 16 * BLOCK, BLOCK):
            with pytest.raises(CacheFull):
                await one.read(at, at + BLOCK)
        assert len(store.ranges) == asked > 0
        await one.close()
        small.close()

    asyncio.run(run())
