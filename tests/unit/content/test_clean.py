"""A file of an object's bytes: what it opens of the cache it lets go of."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import BLOCK, SMALL, Cache, Governor, TurnTaken
from csi_slayer.content import clean
from csi_slayer.content.clean import TURNS, CleanFile
from csi_slayer.content.options import Live
from csi_slayer.content.ranges import as_bytes
from csi_slayer.content.segment_reader import Transfers
from csi_slayer.content.small import SmallFetcher, Source
from csi_slayer.content.spans import Spans
from csi_slayer.errors import CacheError, CacheFull
from tests.unit.vfs.memory_store import Blob, Bucket, MemoryStore


class Unverified:
    """A segment that has to be verified first; it takes as long as ``may_end`` says."""

    needs_verify = True

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.closed = False
        self.error: Exception | None = None

    def verify(self) -> int:
        self.began.set()
        assert self.may_end.wait(30)
        if self.error is not None:
            raise self.error
        return 0

    def close(self) -> None:
        self.closed = True


class Contested:
    """A complete segment that another process keeps us from taking for a while."""

    needs_verify = False
    complete = True

    def __init__(self, tries: int) -> None:
        self.tries = tries

    def detach(self, _path: str) -> int:
        if self.tries:
            self.tries -= 1
            raise TurnTaken
        return 99


class Found:
    """A cache that has just that segment."""

    def __init__(self, segment: Unverified | Contested) -> None:
        self._segment = segment
        self.bypassed: list[CacheError] = []

    def find(self, _key: object, _size: int) -> Unverified | Contested:
        return self._segment

    def bypass(self, error: CacheError) -> None:
        self.bypassed.append(error)


def opened(segment: Unverified | Contested) -> CleanFile:
    nothing: Any = None
    found: Any = Found(segment)
    source = Source("key", '"etag"', 2 * SMALL, 7)
    transfers = Transfers(0, Live())
    return CleanFile(nothing, found, found, "t", transfers, nothing, source, 4 * SMALL, nothing)


def test_whoever_does_not_wait_for_the_verification_leaves_no_segment_open() -> None:
    segment = Unverified()

    async def run() -> None:
        task = asyncio.create_task(opened(segment).open_segment())
        await asyncio.to_thread(segment.began.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert segment.closed
        segment.may_end.set()

    asyncio.run(run())


def test_nor_does_one_that_fails() -> None:
    segment = Unverified()
    segment.error = CacheError("the disk cannot be read")
    segment.may_end.set()
    file = opened(segment)
    assert asyncio.run(file.open_segment()) is None
    assert segment.closed


class Verified(Unverified):
    """One of which all is there then."""

    complete = True
    size = 2 * SMALL


def test_a_close_under_a_fill_that_has_yet_to_open_the_segment_leaves_none_open() -> None:
    """What is open is not evicted."""
    segment = Verified()

    async def run() -> None:
        file = opened(segment)
        task = asyncio.create_task(file.fill())
        await asyncio.to_thread(segment.began.wait, 30)
        await file.close()
        segment.may_end.set()
        await task
        assert segment.closed

    asyncio.run(run())


@pytest.mark.parametrize(("tries", "taken"), [(0, 99), (20, 99), (2 * TURNS, None)])
def test_other_workers_that_take_segments_are_waited_for(tries: int, taken: int | None) -> None:
    """A moment: each needs less than a millisecond."""

    async def run() -> int | None:
        file = opened(Contested(tries))
        await file.open_segment()
        return await file.surrender("stage")

    assert asyncio.run(run()) == taken


class Part:
    """A segment of which nothing is present."""

    needs_verify = False
    complete = False
    has_no_room = False
    size = 2 * SMALL

    def __init__(self) -> None:
        self.closed = False

    def claim(self, _offset: int, _end: int) -> None:
        return None

    def present(self, _offset: int, _length: int) -> bool:
        return False

    available = present

    def missing(self, offset: int, length: int) -> list[tuple[int, int]]:
        return [(offset, length)]

    def sink(self, *_args: object, **_named: object) -> None:
        return None

    def close(self) -> None:
        self.closed = True


class Full:
    """A cache that has no room, the store beside it, and who counts."""

    capacity = 1 << 40

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def find(self, _key: object, _size: int) -> None:
        return None

    def create(self, _key: object, _size: int) -> Part:
        self.parts.append(Part())
        return self.parts[-1]

    def bypass(self, _error: CacheError) -> None:
        """Forget it."""

    def cache_read(self, *_bytes: int) -> None:
        """Forget it."""

    async def fetch(self, *_args: object, **_named: object) -> None:
        raise CacheFull("full")

    async def get(self, *_args: object, **_named: object) -> tuple[None, bytes]:
        return None, b"past the cache"


def opened_in(full: Any, size: int) -> CleanFile:
    """A file of segments of two MiB."""
    nothing: Any = None
    source, transfers = Source("key", '"etag"', size, 7), Transfers(0, Live())
    return CleanFile(full, full, full, "t", transfers, full, source, 2 * SMALL, nothing)


def test_a_full_cache_gets_back_what_the_same_file_has_open_and_nobody_reads() -> None:
    """Of a file larger than the cache that is all of it, and what is open is not evicted: all the
    rest of the file was read past the cache."""
    full = Full()

    async def run() -> None:
        file = opened_in(full, 8 * SMALL)
        for span in range(3):
            await file.open_segment(span)
        assert await file.read(6 * SMALL, 100) == b"past the cache"
        assert [part.closed for part in full.parts] == [True, True, True, False]
        await file.close()

    asyncio.run(run())


def test_a_segment_of_several_that_nobody_reads_for_a_while_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One idle program with a file larger than the cache had all of it open, and nothing else on
    the node was cached any more."""
    monkeypatch.setattr(clean, "UNREAD", 0.05)
    full = Full()

    async def run() -> None:
        file = opened_in(full, 8 * SMALL)
        for span in range(3):
            await file.open_segment(span)
        for _ in range(20):
            await file.open_segment(1)
            await asyncio.sleep(0.01)
        assert [part.closed for part in full.parts] == [True, False, True]
        await asyncio.sleep(0.3)
        assert full.parts[1].closed
        await file.open_segment(0)
        await file.close()
        assert [part.closed for part in full.parts] == [True] * 4

    asyncio.run(run())


def test_the_only_segment_of_a_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may read it by itself."""
    monkeypatch.setattr(clean, "UNREAD", 0.01)
    full = Full()

    async def run() -> None:
        file = opened_in(full, 2 * SMALL)
        await file.open_segment()
        await asyncio.sleep(0.1)
        assert not full.parts[0].closed
        await file.close()

    asyncio.run(run())


SIZE = 64 << 20
DATA = random.Random(5).randbytes(SMALL) * (SIZE // SMALL)


class Counting(MemoryStore):
    """An object, and the bytes that were asked of it."""

    def __init__(self) -> None:
        super().__init__(Bucket({"key": Blob(DATA, '"e"', 1, {})}))
        self.asked = 0

    async def fetch(self, key: str, **how: Any) -> None:
        self.asked += how["length"]
        await super().fetch(key, **how)

    async def get(self, key: str, **how: Any) -> Any:
        self.asked += how["length"]
        return await super().get(key, **how)


class Nobody:
    """Who is told of events."""

    def cache_read(self, hit: int, miss: int) -> None: ...
    def conflict(self) -> None: ...


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cache]:
    """A cache of a fourth of the object, and who evicts from it."""
    cache = Cache(tmp_path / "cache", SIZE // 4)
    governor = Governor(cache)
    governor.start()
    yield cache
    governor.close()
    cache.close()


def through(
    cache: Cache, store: MemoryStore, size: int = SIZE, span: int | None = None
) -> CleanFile:
    async def settled(_key: str) -> None: ...

    smalls = SmallFetcher(store, cache, lambda *_: None)
    span = span or Spans(4 << 30, cache.capacity).of(size)
    source = Source("key", '"e"', size)
    places, events = Transfers(4, Live()), Nobody()
    return CleanFile(store, cache, smalls, "t", places, events, source, span, settled)


def test_a_file_larger_than_the_cache_makes_room_for_itself(small: Cache) -> None:
    """What it has open cannot be evicted: it must not be all of the cache."""

    async def run() -> None:
        store = Counting()
        file = through(small, store)
        for at in range(0, SIZE, BLOCK):
            assert as_bytes(await file.read(at, BLOCK)) == DATA[at : at + BLOCK]
        await file.close()
        assert small.events.bypassed.value == 0
        assert store.asked <= SIZE + SIZE // 8

    asyncio.run(run())


def test_who_reads_here_and_there_in_a_large_file_gets_the_blocks_that_he_reads(
    small: Cache,
) -> None:
    async def run() -> None:
        store, rng = Counting(), random.Random(3)
        file = through(small, store)
        places = [rng.randrange(SIZE // 4096) * 4096 for _ in range(600)]
        for at in places:
            assert as_bytes(await file.read(at, 4096)) == DATA[at : at + 4096]
        await file.close()
        assert store.asked <= 2 * BLOCK * len(places)

    asyncio.run(run())


@pytest.mark.parametrize(("first", "then"), [(2, 4), (4, 2), (2, 6), (3, 4)])
def test_pieces_of_another_size_are_never_taken_for_others(
    small: Cache, first: int, then: int
) -> None:
    """The capacity follows the free space: the last piece of a file in larger pieces may have the
    size and the number of one of the smaller that another worker left."""
    data = b"".join(bytes([n]) * SMALL for n in range(10))
    bucket = Bucket({"key": Blob(data, '"e"', 1, {})})

    async def run() -> None:
        for span in (first, then):
            file = through(small, MemoryStore(bucket), len(data), span * SMALL)
            for at in range(0, len(data), SMALL):
                assert as_bytes(await file.read(at, SMALL)) == data[at : at + SMALL]
            await file.close()

    asyncio.run(run())
    assert small.events.corrupt_segments.value == 0


def test_what_a_read_returns_that_the_file_was_closed_under_is_there(
    small: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it had opened its piece: that was closed by the time its bytes were looked for."""

    async def run() -> None:
        file = through(small, Counting())
        await file.read(0, BLOCK)
        began, leave_idle = asyncio.Event(), file._leave_idle

        async def held(span: int) -> None:
            began.set()
            await asyncio.sleep(0.01)
            await leave_idle(span)

        monkeypatch.setattr(file, "_leave_idle", held)
        at = SIZE - BLOCK
        for _ in range(2):  # what is in memory, and what is on the disk
            began.clear()
            read = asyncio.ensure_future(file.read(at, BLOCK))
            await began.wait()
            await file.close()
            assert as_bytes(await read) == DATA[at:]

    asyncio.run(run())
