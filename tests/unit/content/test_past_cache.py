"""Reads past the cache: few requests, little memory, and the right bytes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from csi_slayer.content import past_cache
from csi_slayer.content.options import Live
from csi_slayer.content.past_cache import LARGEST, Memory, PastCache
from csi_slayer.content.small import Source
from csi_slayer.errors import ObjectNotFound, PreconditionFailed
from tests.unit.vfs.memory_store import Blob, Bucket, MemoryStore

SIZE = 40 << 20
STEP = 128 << 10
DATA = random.Random(7).randbytes(SIZE)
SOURCE = Source("key", '"e"', SIZE)


class Counting(MemoryStore):
    """What is asked of it; ``held``, if set, keeps its answers back."""

    def __init__(self) -> None:
        super().__init__(Bucket({"key": Blob(DATA, '"e"', 1, {})}))
        self.sizes: list[int] = []
        self.held: asyncio.Event | None = None

    async def get(self, key: str, **how: Any) -> Any:
        self.sizes.append(how["length"])
        if self.held is not None:
            await self.held.wait()
        return await super().get(key, **how)


async def in_sequence(file: PastCache, start: int = 0, end: int = SIZE) -> None:
    for at in range(start, end, STEP):
        stop = min(at + STEP, end)
        assert await file.read(SOURCE, at, stop) == DATA[at:stop]


def test_a_reader_in_sequence_asks_for_large_ranges_and_for_each_byte_once() -> None:
    async def run() -> None:
        store, memory = Counting(), Memory()
        file = PastCache(store, memory)
        await in_sequence(file)
        assert sum(store.sizes) == SIZE
        assert len(store.sizes) <= SIZE // LARGEST + 2
        assert memory.taken <= 2 * LARGEST
        file.close()
        assert memory.taken == 0

    asyncio.run(run())


def test_requests_a_little_out_of_order_are_answered_from_what_was_fetched() -> None:
    async def run() -> None:
        store = Counting()
        file = PastCache(store, Memory())
        places = [at + STEP * n for at in range(0, SIZE, 4 * STEP) for n in (1, 0, 3, 2)]
        found = await asyncio.gather(*(file.read(SOURCE, at, at + STEP) for at in places[:8]))
        found += [await file.read(SOURCE, at, at + STEP) for at in places[8:]]
        assert found == [DATA[at : at + STEP] for at in places]
        assert sum(store.sizes) <= SIZE + 2 * LARGEST
        file.close()

    asyncio.run(run())


def test_who_reads_here_and_there_gets_what_he_reads() -> None:
    async def run() -> None:
        store, memory = Counting(), Memory()
        file = PastCache(store, memory)
        for at in range(SIZE - STEP, 0, -(6 << 20)):
            assert await file.read(SOURCE, at, at + STEP) == DATA[at : at + STEP]
        assert set(store.sizes) == {STEP}
        assert memory.taken == 0

    asyncio.run(run())


def test_without_readahead_only_what_is_read_is_fetched() -> None:
    async def run() -> None:
        store = Counting()
        await in_sequence(PastCache(store, Memory(Live(prefetch=False))), 0, 1 << 20)
        assert store.sizes == [STEP] * 8

    asyncio.run(run())


def test_many_share_the_memory_and_those_that_rest_make_room() -> None:
    async def run() -> None:
        store, memory = Counting(), Memory(most=8 << 20)
        resting = [PastCache(store, memory) for _ in range(20)]
        for file in resting:
            await in_sequence(file, 0, 1 << 20)
            assert memory.taken <= 8 << 20
        for file in resting[1:]:
            file.close()
        store.sizes.clear()
        last = PastCache(store, memory)
        await in_sequence(last)
        assert len(store.sizes) <= SIZE // (2 << 20) + 2
        for file in (resting[0], last):
            file.close()
        assert memory.taken == 0

    asyncio.run(run())


def test_files_that_are_open_and_rest_leave_the_memory_to_who_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three hundred of them left nobody a range that was larger than what the kernel asks for."""
    monkeypatch.setattr(past_cache, "RESTS", 0.05)

    async def run() -> None:
        store, memory = Counting(), Memory(most=8 << 20)
        resting = [PastCache(store, memory) for _ in range(40)]
        for file in resting:
            await in_sequence(file, 0, 1 << 20)
        await asyncio.sleep(0.1)
        store.sizes.clear()
        last = PastCache(store, memory)
        await in_sequence(last)
        assert len(store.sizes) <= SIZE // LARGEST + 2
        assert memory.taken <= 8 << 20
        for file in (*resting, last):
            file.close()
        assert memory.taken == 0

    asyncio.run(run())


def test_who_goes_away_leaves_the_others_their_answer() -> None:
    async def run() -> None:
        store, memory = Counting(), Memory()
        store.held = asyncio.Event()
        file = PastCache(store, memory)
        reads = [asyncio.ensure_future(file.read(SOURCE, n * 9, n * 9 + 9)) for n in range(3)]
        await asyncio.sleep(0)
        reads[0].cancel()
        await asyncio.sleep(0)
        store.held.set()
        assert await reads[1] == DATA[9:18]
        assert await reads[2] == DATA[18:27]
        assert len(store.sizes) == 1
        file.close()

    asyncio.run(run())


def test_a_close_meanwhile_takes_no_answer_away() -> None:
    async def run() -> None:
        store, memory = Counting(), Memory()
        store.held = asyncio.Event()
        file = PastCache(store, memory)
        read = asyncio.ensure_future(file.read(SOURCE, 0, STEP))
        await asyncio.sleep(0.01)
        file.close()
        store.held.set()
        assert await read == DATA[:STEP]
        assert memory.taken == 0

    asyncio.run(run())


def test_an_error_is_that_of_all_who_wait() -> None:
    """A store that is away keeps nobody waiting twice."""

    async def run() -> None:
        store, memory = Counting(), Memory()
        file = PastCache(store, memory)
        gone = SOURCE._replace(etag='"other"')
        reads = [file.read(gone, n * 9, n * 9 + 9) for n in range(3)]
        found = await asyncio.gather(*reads, return_exceptions=True)
        assert [type(error) for error in found] == [PreconditionFailed] * 3
        assert len(store.sizes) == 1

    asyncio.run(run())


def test_what_was_asked_for_where_the_object_no_longer_is_is_asked_for_where_it_is() -> None:
    """By who came after a rename, while the range was under way at the old key."""

    async def run() -> None:
        store, memory = Counting(), Memory()
        store.held = asyncio.Event()
        file = PastCache(store, memory)
        before = asyncio.ensure_future(file.read(SOURCE, 0, 9))
        await asyncio.sleep(0)
        store.bucket.objects["new"] = store.bucket.objects.pop("key")
        after = asyncio.ensure_future(file.read(SOURCE._replace(key="new"), 9, 18))
        await asyncio.sleep(0)
        store.held.set()
        with pytest.raises(ObjectNotFound):  # whose caller looks where it is now
            await before
        assert await after == DATA[9:18]
        file.close()
        assert memory.taken == 0

    asyncio.run(run())


def test_another_version_is_an_error_and_nothing_is_kept() -> None:
    async def run() -> None:
        memory = Memory()
        file = PastCache(Counting(), memory)
        for _ in range(2):
            with pytest.raises(PreconditionFailed):
                await file.read(SOURCE._replace(etag='"other"'), 0, STEP)
        assert memory.taken == 0

    asyncio.run(run())
