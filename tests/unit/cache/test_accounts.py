"""The ledger agrees with the disk after whatever removes or replaces a segment, not only after the
next count."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from csi_slayer.cache import BLOCK, Cache, Governor, governor
from csi_slayer.cache.bell import open_bell, ring
from csi_slayer.errors import CacheError
from tests.unit.cache.helpers import (
    CAPACITY,
    content,
    data_path,
    disk_bytes,
    fill,
    flip,
    key_of,
    make_complete,
    map_path,
    reboot,
    staged,
)

KEY = key_of("object")
SIZE = 3 * BLOCK


def agrees(cache: Cache) -> bool:
    return cache.usage().used == disk_bytes(cache)


def test_a_segment_that_is_taken_for_writing_takes_its_map_along(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    segment = cache.find(KEY, SIZE)
    assert segment is not None
    fd = segment.detach(str(cache.staging("v").path("stage")))
    assert fd is not None
    os.close(fd)
    assert cache.usage().used == disk_bytes(cache) == 0


def test_a_damaged_segment_takes_its_map_along(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    flip(map_path(cache, "object"), 0)
    assert cache.find(KEY, SIZE) is None
    assert cache.usage().used == disk_bytes(cache) == 0


@pytest.mark.parametrize("older", ["whole", "in blocks"])
def test_a_small_segment_replaces_an_older_one(cache: Cache, other: Cache, older: str) -> None:
    """Two processes have fetched the object at the same time."""
    if older == "whole":
        assert other.store_small(KEY, content("object", 8192))
    else:
        segment = other.create(KEY, 8192)
        fill(segment, content("object", 8192))
        segment.close()
    assert agrees(cache)
    assert cache.store_small(KEY, content("object", 8192))
    assert cache.usage().used == disk_bytes(cache) == 8192


def test_a_staged_file_replaces_a_partial_segment(cache: Cache) -> None:
    segment = cache.create(KEY, SIZE)
    fill(segment, content("object", SIZE)[:BLOCK])
    segment.close()
    cache.adopt(KEY, staged(cache, SIZE).path, SIZE)
    assert agrees(cache)


@pytest.mark.parametrize("measures", [True, False])
def test_what_is_written_to_a_file_that_lost_its_name_is_freed_with_it(
    cache: Cache, other: Cache, measures: bool
) -> None:
    """Somebody goes on to fill a segment whose name a staged file takes."""
    other.shared.measures = measures
    data = content("object", SIZE)
    segment = other.create(KEY, SIZE)
    fill(segment, data[:BLOCK])
    cache.adopt(KEY, staged(cache, SIZE).path, SIZE)
    segment.write_block(BLOCK, data[BLOCK : 2 * BLOCK])
    segment.write_block(2 * BLOCK, data[2 * BLOCK :])
    assert cache.usage().used == disk_bytes(cache) + 2 * BLOCK
    segment.close()
    assert agrees(cache)


@pytest.mark.parametrize("measures", [True, False])
def test_a_file_that_lost_its_name_is_not_freed_again_when_all_was_counted_since(
    cache: Cache, other: Cache, measures: bool
) -> None:
    """A count does not find it: what it had is not among what is used from then on."""
    other.shared.measures = measures
    data = content("object", SIZE)
    segment = other.create(KEY, SIZE)
    cache.adopt(KEY, staged(cache, SIZE).path, SIZE)
    segment.write_block(0, data[:BLOCK])
    governing = Governor(cache)
    assert governing.take_over()
    assert agrees(cache)
    segment.write_block(BLOCK, data[BLOCK : 2 * BLOCK])
    assert cache.usage().used == disk_bytes(cache) + BLOCK
    segment.close()
    assert agrees(cache)
    governing.step_down()


def test_a_small_segment_that_turns_out_bad_is_gone(cache: Cache) -> None:
    assert cache.store_small(KEY, b"hello")
    flip(data_path(cache, "object"), 0)
    reboot(cache)
    segment = cache.find(KEY, 5)
    assert segment is not None
    assert segment.verify() == 1
    assert cache.events.corrupt_segments.value == 1
    assert cache.usage().used == disk_bytes(cache) == 0
    segment.close()


def test_what_was_evicted_before_an_error_is_gone(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        assert cache.store_small(key_of(f"{number}"), content(f"{number}", 8192))
    evict, left = governor.evict, [3]

    def failing(*args: Any) -> int | None:
        if not left[0]:
            raise OSError(errno.EIO, "Input/output error")
        left[0] -= 1
        return evict(*args)

    monkeypatch.setattr(governor, "evict", failing)
    with pytest.raises(CacheError):
        Governor(cache).evict(CAPACITY)
    assert cache.usage().used == disk_bytes(cache) == 2 * 8192
    assert cache.events.evicted_segments.value == 3


def broken(number: int) -> Any:
    def call(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_a_disk_that_does_not_say_what_it_has_free_is_an_error_of_the_cache(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", broken(errno.EIO))
    with pytest.raises(CacheError, match="Input/output error"):
        cache.shared.ledger.reserve(1 << 20)
    with pytest.raises(CacheError, match="Input/output error"):
        cache.staging("v").create()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EROFS])
def test_a_bell_that_cannot_be_rung_stops_nobody(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bell = open_bell(cache.shared.layout)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", broken(number))
        ring(cache.shared.layout)
    os.close(bell)
