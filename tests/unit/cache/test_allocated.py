"""Room that is allocated for a download before its bytes are written: never more than is counted,
and counted once, whatever becomes of the download."""

from __future__ import annotations

import errno
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache, Segment
from csi_slayer.cache.fresh import PIECE
from csi_slayer.cache.segment import ALLOCATED
from csi_slayer.errors import CacheFull
from tests.unit.cache.helpers import CAPACITY, content, crash, disk_bytes, key_of

KEY = key_of("object")
SIZE = 4 * ALLOCATED + 5
DATA = content("object", SIZE)


@pytest.fixture(autouse=True)
def allocates(cache: Cache) -> None:
    """Also where the tests' directory is on another file system than ext4."""
    cache.shared.allocates = cache.shared.measures = True


def download(segment: Segment, start: int, stop: int, *, until: int | None = None) -> None:
    """The range [start, stop) in pieces, as far as ``until``."""
    sink = segment.sink(lambda _offset, _length: None, end=stop)
    for offset in range(start, stop if until is None else until, PIECE):
        sink.write(offset, memoryview(DATA)[offset : min(offset + PIECE, stop)])


def agrees(cache: Cache) -> bool:
    return cache.usage().used == disk_bytes(cache)


def test_a_download_is_counted_once(cache: Cache) -> None:
    segment = cache.create(KEY, SIZE)
    download(segment, 0, SIZE)
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == DATA
    assert os.fstat(segment.fd).st_size == SIZE
    assert agrees(cache)
    segment.close()


def test_what_is_allocated_in_vain_is_counted_and_used_later(cache: Cache) -> None:
    """A reader goes away after the first piece, ten times."""
    segment = cache.create(KEY, SIZE)
    for _ in range(10):
        download(segment, ALLOCATED, 3 * ALLOCATED, until=ALLOCATED + PIECE)
        assert cache.usage().used == disk_bytes(cache) >= ALLOCATED
    assert disk_bytes(cache) < 2 * ALLOCATED
    assert not segment.present(ALLOCATED + PIECE, 1), "it is room, not data"
    download(segment, 0, SIZE)
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == DATA
    assert agrees(cache)
    segment.close()


@pytest.mark.parametrize("step", [BLOCK, PIECE])
def test_small_ranges_use_what_was_allocated_in_vain(cache: Cache, step: int) -> None:
    """As of a reader that goes on where another, or he himself, has stopped; also when the segment
    was closed in between."""
    for _ in range(2):
        segment = cache.create(KEY, SIZE)
        download(segment, 0, SIZE, until=PIECE)
        segment.close()
    segment = cache.create(KEY, SIZE)
    segment.verify()
    for offset in range(PIECE, ALLOCATED, step):
        download(segment, offset, offset + step)
    assert agrees(cache)
    segment.close()


def test_several_at_once_are_counted_once(cache: Cache) -> None:
    segment = cache.create(KEY, SIZE)
    download(segment, 0, SIZE, until=PIECE)
    turns = random.Random(0)
    parts = [range(start, min(start + PIECE, SIZE), BLOCK) for start in range(0, SIZE, PIECE)]

    def some(part: range) -> None:
        download(segment, part.start, min(part.start + turns.choice([1, 8]) * PIECE, SIZE))

    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(some, turns.sample(parts, len(parts))):
            pass
    assert segment.complete
    assert agrees(cache)
    segment.close()


def test_a_small_range_is_not_rounded_up(cache: Cache) -> None:
    segment = cache.create(KEY, SIZE)
    before = disk_bytes(cache)
    download(segment, 0, BLOCK)
    os.fsync(segment.fd)
    assert disk_bytes(cache) - before <= 2 * BLOCK
    assert agrees(cache)
    segment.close()


def test_blocks_of_others_are_not_counted_again(cache: Cache, other: Cache) -> None:
    segment, theirs = cache.create(KEY, SIZE), other.create(KEY, SIZE)
    theirs.write_block(BLOCK, DATA[BLOCK : 2 * BLOCK])
    download(theirs, ALLOCATED, 2 * ALLOCATED)
    stamp = os.fstat(segment.fd).st_mtime_ns
    download(segment, ALLOCATED, 2 * ALLOCATED)
    assert os.fstat(segment.fd).st_mtime_ns == stamp, "nothing was to be done"
    download(segment, 0, 3 * ALLOCATED)
    assert agrees(cache)
    segment.close()
    theirs.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC, errno.EINTR])
def test_what_cannot_be_allocated_is_written_all_the_same(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("csi_slayer.cache.opened.fallocate", refuse)
    segment = cache.create(KEY, SIZE)
    download(segment, 0, SIZE)
    assert segment.complete
    assert cache.shared.allocates == (number != errno.EOPNOTSUPP)
    assert cache.usage().used - disk_bytes(cache) < ALLOCATED
    segment.close()
    assert agrees(cache)


def test_the_capacity_holds(cache: Cache) -> None:
    """Downloads that end half way, until nothing goes any more."""
    most = CAPACITY // ALLOCATED
    begun = [cache.create(key_of(f"{number}"), SIZE) for number in range(most + 10)]
    full = None
    for number, segment in enumerate(begun):
        try:
            download(segment, 0, 2 * ALLOCATED, until=PIECE)
        except CacheFull:
            full = number
            break
        assert disk_bytes(cache) <= cache.usage().used <= CAPACITY
    assert full is not None
    assert full > most * 3 // 4
    assert disk_bytes(cache) <= cache.usage().used <= CAPACITY
    for segment in begun:
        segment.close()
    assert agrees(cache)


def test_what_a_killed_process_had_allocated_is_used_by_the_next(root: Path) -> None:
    killed = Cache(root, CAPACITY)
    killed.shared.allocates = killed.shared.measures = True
    segment = killed.create(KEY, SIZE)
    download(segment, 0, SIZE, until=PIECE)
    crash(killed)
    cache = Cache(root, CAPACITY)
    assert cache.usage().used == disk_bytes(cache) >= ALLOCATED
    segment = cache.create(KEY, SIZE)
    segment.verify()
    assert segment.missing(0, SIZE) == [(PIECE, SIZE - PIECE)]
    download(segment, 0, SIZE)
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == DATA
    segment.close()
    cache.close()
