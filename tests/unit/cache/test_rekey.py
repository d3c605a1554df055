"""A segment that goes along when its object moves in the store."""

from __future__ import annotations

import fcntl
import os

import pytest

from csi_slayer.cache import BLOCK, SMALL, Cache, Governor, verify_all
from tests.unit.cache.helpers import content, data_path, fill, key_of, make_complete, map_path

LARGE = SMALL + BLOCK + 5


def test_a_small_segment(cache: Cache, other: Cache) -> None:
    assert cache.store_small(key_of("old"), content("old", 8192))
    assert cache.rekey(key_of("old"), key_of("new"))
    for one in (cache, other):
        assert one.find(key_of("old"), 8192) is None
        segment = one.find(key_of("new"), 8192)
        assert segment is not None
        assert segment.complete
        assert os.pread(segment.fd, 8192, 0) == content("old", 8192)
        segment.close()
    assert cache.events.corrupt_segments.value == other.events.corrupt_segments.value == 0


@pytest.mark.parametrize("complete", [True, False])
def test_a_large_segment_with_what_it_has(cache: Cache, other: Cache, complete: bool) -> None:
    body = content("old", LARGE)
    segment = cache.create(key_of("old"), LARGE)
    fill(segment, body if complete else body[: 2 * BLOCK])
    segment.close()
    assert cache.rekey(key_of("old"), key_of("new"))
    moved = (other if complete else cache).find(key_of("new"), LARGE)
    assert moved is not None
    assert moved.complete is complete
    assert moved.present(0, 2 * BLOCK)
    assert os.pread(moved.fd, 2 * BLOCK, 0) == body[: 2 * BLOCK]
    fill(moved, body)
    assert moved.complete
    moved.close()
    assert verify_all(cache).bad_segments == 0


def test_nothing_is_left_and_nothing_is_counted_twice(cache: Cache) -> None:
    make_complete(cache, "old", LARGE)
    governor = Governor(cache)
    governor.take_over()
    used = cache.usage().used
    assert cache.rekey(key_of("old"), key_of("new"))
    governor.step_down()
    assert governor.take_over()
    assert cache.usage().used == used
    assert cache.usage().segments == 1
    assert governor.evict(1).segments == 1
    assert not os.listdir(data_path(cache, "new").parent)
    governor.step_down()


def test_one_that_somebody_has_open_stays(cache: Cache, other: Cache) -> None:
    make_complete(cache, "old", LARGE)
    for one in (cache, other):
        segment = one.find(key_of("old"), LARGE)
        assert segment is not None
        assert not cache.rekey(key_of("old"), key_of("new"))
        assert not cache.contains(key_of("new"))
        segment.close()
    assert cache.rekey(key_of("old"), key_of("new"))


def test_nothing_moves_while_somebody_tries_to_detach(cache: Cache) -> None:
    """Who tries has let go of its lock for a moment."""
    make_complete(cache, "old", LARGE)
    with open(cache.shared.layout.detach_lock, "wb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        assert not cache.rekey(key_of("old"), key_of("new"))
    assert cache.rekey(key_of("old"), key_of("new"))


def test_one_of_the_new_name_stays(cache: Cache) -> None:
    make_complete(cache, "old", LARGE)
    make_complete(cache, "new", LARGE)
    assert not cache.rekey(key_of("old"), key_of("new"))
    for name in ("old", "new"):
        segment = cache.find(key_of(name), LARGE)
        assert segment is not None
        assert os.pread(segment.fd, LARGE, 0) == content(name, LARGE)
        segment.close()


def test_none_and_damaged_ones_do_not_move(cache: Cache) -> None:
    assert not cache.rekey(key_of("old"), key_of("new"))
    make_complete(cache, "old", LARGE)
    os.unlink(map_path(cache, "old"))
    assert not cache.rekey(key_of("old"), key_of("new"))
    assert cache.find(key_of("old"), LARGE) is None
    make_complete(cache, "old", LARGE)
    os.removexattr(data_path(cache, "old"), cache.shared.layout.xattr)
    assert not cache.rekey(key_of("old"), key_of("new"))


@pytest.mark.parametrize("step", ["map", "header"])
def test_a_crash_in_between_leaves_nothing_that_is_believed(
    cache: Cache, other: Cache, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    make_complete(cache, "old", LARGE)
    original = os.rename
    left = {"map": 1, "header": 2}[step]

    def rename(source: str, target: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if step == "map":
                original(source, target)
            raise KeyboardInterrupt
        original(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("csi_slayer.cache.rekey.os.rename", rename)
        with pytest.raises(KeyboardInterrupt):
            cache.rekey(key_of("old"), key_of("new"))
    assert other.find(key_of("new"), LARGE) is None
    assert other.find(key_of("old"), LARGE) is None
    make_complete(other, "new", LARGE)
    make_complete(other, "old", LARGE)
    assert verify_all(other).bad_segments == 0
