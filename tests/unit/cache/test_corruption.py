"""Nothing unverified is served: reboots, scribbled files, damaged maps and headers."""

from __future__ import annotations

import os

import pytest

from csi_slayer.cache import BLOCK, Cache, verify_all
from csi_slayer.errors import CacheError
from tests.unit.cache.helpers import (
    change_header,
    content,
    data_path,
    flip,
    key_of,
    make_complete,
    map_path,
    overwrite,
    reboot,
)

KEY = key_of("object")
SIZE = 3 * BLOCK + 5


def test_after_a_reboot_a_whole_segment_is_verified_once(cache: Cache) -> None:
    cache.store_small(KEY, b"hello")
    reboot(cache)
    segment = cache.find(KEY, 5)
    assert segment is not None
    assert segment.needs_verify
    assert not segment.complete
    assert not segment.present(0, 5)
    assert segment.verify() == 0
    assert segment.complete
    segment.close()
    segment = cache.find(KEY, 5)
    assert segment is not None
    assert segment.complete
    segment.close()


def test_after_a_reboot_blocks_are_verified_before_their_use(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    reboot(cache)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert segment.needs_verify
    assert not segment.complete
    assert not segment.present(0, 1)
    assert segment.verify(0, BLOCK) == 0
    assert segment.present(0, BLOCK)
    assert not segment.present(BLOCK, 1)
    assert segment.needs_verify
    segment.verify()
    assert not segment.needs_verify
    assert segment.complete
    segment.close()
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert segment.complete
    segment.close()


def test_a_block_that_the_crash_lost_is_dropped_and_the_rest_kept(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    flip(data_path(cache, "object"), BLOCK + 17)
    reboot(cache)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert segment.verify() == 1
    assert segment.missing(0, SIZE) == [(BLOCK, BLOCK)]
    assert not segment.complete
    assert cache.events.corrupt_blocks.value == 1
    segment.write_block(BLOCK, content("object", SIZE)[BLOCK : 2 * BLOCK])
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == content("object", SIZE)
    segment.close()


def test_an_unverified_block_may_be_fetched_again_instead(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    overwrite(data_path(cache, "object"), 0, b"torn")
    reboot(cache)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    segment.write_block(0, content("object", SIZE)[:BLOCK])
    assert segment.present(0, BLOCK)
    assert segment.verify() == 0
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == content("object", SIZE)
    segment.close()


def test_a_segment_partial_at_the_reboot_keeps_its_good_blocks(cache: Cache) -> None:
    data = content("object", SIZE)
    segment = cache.create(KEY, SIZE)
    segment.write_block(0, data[:BLOCK])
    segment.write_block(BLOCK, data[BLOCK : 2 * BLOCK])
    segment.close()
    flip(data_path(cache, "object"), 3)
    reboot(cache)
    segment = cache.create(KEY, SIZE)
    assert segment.needs_verify
    assert segment.verify() == 1
    assert not segment.needs_verify
    assert segment.missing(0, SIZE) == [(0, BLOCK), (2 * BLOCK, BLOCK + 5)]
    segment.close()


def test_a_small_segment_that_is_bad_is_removed_and_can_be_filled_again(cache: Cache) -> None:
    data = content("object", 1000)
    cache.store_small(KEY, data)
    flip(data_path(cache, "object"), 3)
    segment = cache.find(KEY, 1000)
    assert segment is not None
    assert segment.needs_verify
    assert segment.verify() == 1
    assert not cache.contains(KEY)
    assert cache.events.corrupt_segments.value == 1
    # Whoever has it open already goes on with an empty one.
    assert not segment.needs_verify
    assert segment.missing(0, 1000) == [(0, 1000)]
    segment.write_block(0, data)
    assert segment.complete
    assert os.pread(segment.fd, 1000, 0) == data
    segment.close()
    assert cache.find(KEY, 1000) is None


def test_an_unverified_small_segment_takes_no_blocks(cache: Cache) -> None:
    cache.store_small(KEY, b"hello")
    reboot(cache)
    segment = cache.find(KEY, 5)
    assert segment is not None
    with pytest.raises(CacheError, match="verified"):
        segment.write_block(0, b"hello")
    segment.close()


def test_somebody_who_changes_a_complete_file_is_noticed(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    flip(data_path(cache, "object"), 2 * BLOCK)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert segment.needs_verify
    assert segment.verify() == 1
    assert segment.missing(0, SIZE) == [(2 * BLOCK, BLOCK)]
    segment.close()


def test_a_touched_but_unchanged_file_is_trusted_again(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    os.utime(data_path(cache, "object"), ns=(1, 1))
    for needed in (True, False):
        segment = cache.find(KEY, SIZE)
        assert segment is not None
        assert segment.needs_verify is needed
        segment.verify()
        assert segment.complete
        segment.close()


@pytest.mark.parametrize("size", [10, SIZE])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_a_miss(cache: Cache, size: int, change: int) -> None:
    if size == SIZE:
        make_complete(cache, "object", size)
    else:
        cache.store_small(KEY, content("object", size))
    os.truncate(data_path(cache, "object"), size + change)
    assert cache.find(KEY, size) is None
    assert not data_path(cache, "object").exists()
    assert cache.events.corrupt_segments.value == 1


@pytest.mark.parametrize("size", [10, SIZE])
def test_a_piece_of_another_size_is_a_miss_and_not_damaged(cache: Cache, size: int) -> None:
    """Those of a large file are when the cache's capacity changes."""
    if size == SIZE:
        make_complete(cache, "object", size)
    else:
        cache.store_small(KEY, content("object", size))
    assert cache.find(KEY, size - 1) is None
    assert not data_path(cache, "object").exists()
    assert cache.events.corrupt_segments.value == 0


@pytest.mark.parametrize("offset", [0, 8, 16, 24, 32])
def test_a_damaged_map_header_is_a_miss(cache: Cache, offset: int) -> None:
    make_complete(cache, "object", SIZE)
    path = map_path(cache, "object")
    flip(path, offset)
    assert cache.find(KEY, SIZE) is None
    assert not data_path(cache, "object").exists()
    assert not path.exists()
    assert cache.events.corrupt_segments.value == 1


@pytest.mark.parametrize("length", [0, 40, 71, 1000])
def test_a_map_of_another_length_is_a_miss(cache: Cache, length: int) -> None:
    make_complete(cache, "object", SIZE)
    os.truncate(map_path(cache, "object"), length)
    assert cache.find(KEY, SIZE) is None


def test_a_missing_map_is_a_miss(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    map_path(cache, "object").unlink()
    assert cache.find(KEY, SIZE) is None
    segment = cache.create(KEY, SIZE)
    assert segment.missing(0, SIZE) == [(0, SIZE)]
    segment.close()


@pytest.mark.parametrize("word", [40, 48])
def test_a_damaged_state_word_only_costs_a_verification(cache: Cache, word: int) -> None:
    make_complete(cache, "object", SIZE)
    flip(map_path(cache, "object"), word)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert segment.needs_verify
    assert segment.verify() == 0
    assert segment.complete
    segment.close()


def test_a_header_that_is_gone_is_a_miss(cache: Cache) -> None:
    cache.store_small(KEY, b"hello")
    os.removexattr(data_path(cache, "object"), cache.shared.layout.xattr)
    assert cache.find(KEY, 5) is None
    assert not cache.contains(KEY)


def test_a_file_under_another_name_is_not_that_segment(cache: Cache) -> None:
    cache.store_small(KEY, b"hello")
    wrong = key_of("wrong")
    os.rename(data_path(cache, "object"), data_path(cache, "wrong"))
    assert cache.find(wrong, 5) is None
    assert not cache.contains(wrong)


def test_verify_all_finds_damage_that_left_no_trace(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    make_complete(cache, "good", SIZE)
    cache.store_small(key_of("small"), b"hello")
    cache.store_small(key_of("small good"), b"hello")
    change_header(cache, "small", check=1)
    flip(data_path(cache, "object"), 0, keep_mtime=True)
    flip(data_path(cache, "object"), SIZE - 1, keep_mtime=True)
    seen: list[int] = []
    found = verify_all(cache, lambda result: seen.append(result.segments))
    assert (found.segments, found.size) == (4, 2 * SIZE + 10)
    assert (found.bad_blocks, found.bad_segments) == (3, 2)
    assert sorted(seen) == [1, 2, 3, 4]
    assert not cache.contains(key_of("small"))
    assert cache.contains(key_of("small good"))
    again = verify_all(cache)
    assert (again.bad_blocks, again.segments) == (0, 3)
    assert again.size == 2 * SIZE - BLOCK - 5 + 5


def test_verify_all_counts_damaged_maps(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    flip(map_path(cache, "object"), 0)
    found = verify_all(cache)
    assert (found.segments, found.bad_segments) == (0, 1)


def test_verify_all_leaves_open_segments_usable(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    assert verify_all(cache).bad_blocks == 0
    assert segment.complete
    assert os.pread(segment.fd, SIZE, 0) == content("object", SIZE)
    segment.close()


def test_a_part_is_verified_by_who_did_not_leave_it(cache: Cache) -> None:
    """Map or data of a partial segment changed while it was closed: what is wrong is absent."""
    size = 10 * BLOCK
    segment = cache.create(key_of("part"), size)
    for block in (0, 1, 2):
        data = content("part", size)[block * BLOCK : (block + 1) * BLOCK]
        segment.write_block(block * BLOCK, data)
    segment.close()
    again = cache.find(key_of("part"), size)
    assert again is not None
    assert not again.needs_verify  # nobody touched it
    again.close()
    (path,) = cache.shared.layout.segments.glob("*/*.map")
    with path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\xa5" * 8)  # "the last block is present"
    damaged = cache.find(key_of("part"), size)
    assert damaged is not None
    assert damaged.needs_verify
    assert not damaged.present(9 * BLOCK, BLOCK)
    assert damaged.verify() == 1
    assert damaged.missing(0, size) == [(3 * BLOCK, 7 * BLOCK)]
    assert cache.events.corrupt_blocks.value == 1
    damaged.close()
