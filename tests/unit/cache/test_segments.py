"""Segments in one process: presence, completeness, one descriptor."""

from __future__ import annotations

import os

import pytest

from csi_slayer.cache import BLOCK, SMALL, Cache
from csi_slayer.errors import CacheError, CacheFull
from tests.unit.cache.helpers import CAPACITY, content, fill, key_of, make_complete

KEY = key_of("object")


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK, SMALL])
def test_a_small_object_is_stored_whole(cache: Cache, size: int) -> None:
    data = content("object", size)
    assert cache.find(KEY, size) is None
    assert not cache.contains(KEY)
    assert cache.store_small(KEY, data)
    assert cache.contains(KEY)
    segment = cache.find(KEY, size)
    assert segment is not None
    assert segment.complete
    assert not segment.needs_verify
    assert segment.present(0, size)
    assert segment.missing(0, size) == []
    assert os.pread(segment.fd, size + 1, 0) == data
    segment.close()


def test_storing_twice_is_no_error(cache: Cache) -> None:
    assert cache.store_small(KEY, b"same")
    assert cache.store_small(KEY, b"same")


def test_a_large_object_is_no_small_segment(cache: Cache) -> None:
    with pytest.raises(ValueError, match="no small segment"):
        cache.store_small(KEY, bytes(SMALL + 1))


def test_put_small_leaves_it_open(cache: Cache) -> None:
    first = cache.put_small(KEY, b"hello")
    second = cache.put_small(KEY, b"hello")
    found = cache.find(KEY, 5)
    assert first is not None
    assert second is not None
    assert found is not None
    assert first.fd == second.fd == found.fd
    assert os.pread(found.fd, 9, 0) == b"hello"
    for segment in (first, second, found):
        segment.close()


def test_blocks_appear_one_by_one(cache: Cache) -> None:
    size = 3 * BLOCK + 100
    data = content("object", size)
    segment = cache.create(KEY, size)
    assert segment.missing(0, size) == [(0, size)]
    segment.write_block(BLOCK, data[BLOCK : 2 * BLOCK])
    assert segment.present(BLOCK, BLOCK)
    assert segment.present(BLOCK + 5, 10)
    assert not segment.present(BLOCK - 1, 2)
    assert segment.missing(0, size) == [(0, BLOCK), (2 * BLOCK, BLOCK + 100)]
    assert segment.missing(2 * BLOCK - 1, 2) == [(2 * BLOCK, BLOCK)]
    assert segment.missing(0, 1 << 40) == [(0, BLOCK), (2 * BLOCK, BLOCK + 100)]
    assert not segment.complete
    fill(segment, data)
    assert segment.complete
    assert segment.missing(0, size) == []
    assert os.pread(segment.fd, size, 0) == data
    segment.close()


def test_what_was_written_is_there_when_opened_again(cache: Cache) -> None:
    size = 3 * BLOCK
    segment = cache.create(KEY, size)
    segment.write_block(0, content("object", BLOCK))
    segment.close()
    segment = cache.create(KEY, size)
    assert segment.missing(0, size) == [(BLOCK, 2 * BLOCK)]
    segment.close()


def test_a_complete_segment_is_complete_when_opened_again(cache: Cache) -> None:
    make_complete(cache, "object", 2 * BLOCK + 1)
    segment = cache.find(KEY, 2 * BLOCK + 1)
    assert segment is not None
    assert segment.complete
    assert not segment.needs_verify
    segment.close()


def test_one_process_has_one_descriptor(cache: Cache) -> None:
    first = cache.create(KEY, 2 * BLOCK)
    second = cache.find(KEY, 2 * BLOCK)
    assert second is not None
    assert first.fd == second.fd
    fd = first.fd
    first.close()
    first.close()
    assert first.fd == -1
    os.fstat(fd)
    second.close()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_another_size_is_another_segment(cache: Cache) -> None:
    cache.store_small(KEY, b"hello")
    assert cache.find(KEY, 6) is None


@pytest.mark.parametrize(
    ("offset", "length"), [(1, BLOCK), (0, BLOCK - 1), (0, BLOCK + 1), (BLOCK, 11), (2 * BLOCK, 0)]
)
def test_only_whole_blocks_are_written(cache: Cache, offset: int, length: int) -> None:
    segment = cache.create(KEY, BLOCK + 10)
    with pytest.raises(ValueError, match="not a block"):
        segment.write_block(offset, bytes(length))
    segment.close()


def test_a_sink_takes_object_offsets_and_tells_segment_offsets(cache: Cache) -> None:
    size, base = 2 * BLOCK + 7, 64 * BLOCK
    data = content("object", size)
    told: list[tuple[int, int]] = []
    segment = cache.create(KEY, size)
    sink = segment.sink(lambda *piece: told.append(piece), end=size, base=base)
    assert sink.piece % BLOCK == 0
    for offset in range(0, size, BLOCK):
        sink.write(base + offset, memoryview(data)[offset : offset + BLOCK])
    assert told == [(0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, 7)]
    assert segment.complete
    segment.close()


def test_a_transfer_that_outlives_the_segment_is_told_so(cache: Cache) -> None:
    segment = cache.create(KEY, 2 * BLOCK)
    sink = segment.sink(lambda _offset, _length: None, end=2 * BLOCK)
    segment.close()
    with pytest.raises(CacheError, match="closed"):
        sink.write(0, memoryview(bytes(BLOCK)))


def test_what_never_fits_is_not_begun(cache: Cache) -> None:
    with pytest.raises(CacheFull):
        cache.create(KEY, CAPACITY + 1)
    assert not cache.contains(KEY)


def test_a_block_once_present_is_not_written_again(cache: Cache) -> None:
    data = content("object", 2 * BLOCK)
    segment = cache.create(KEY, 2 * BLOCK)
    segment.write_block(0, data[:BLOCK])
    segment.write_block(0, bytes(BLOCK))
    assert os.pread(segment.fd, BLOCK, 0) == data[:BLOCK]
    segment.close()
