"""A writer takes a clean segment over without copying it, if nobody else has it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache, Segment, TurnTaken, evict_all
from csi_slayer.errors import CacheError
from tests.unit.cache.helpers import content, data_path, flip, key_of, make_complete, map_path

KEY = key_of("object")
SMALL_SIZE, LARGE = 1000, 9 * BLOCK + 3
sizes = pytest.mark.parametrize("size", [SMALL_SIZE, LARGE])


@pytest.fixture
def target(cache: Cache) -> Path:
    return cache.staging("volume").reserve().path


def opened(cache: Cache, size: int) -> Segment:
    if size == LARGE:
        make_complete(cache, "object", size)
    else:
        cache.store_small(KEY, content("object", size))
    segment = cache.find(KEY, size)
    assert segment is not None
    return segment


@sizes
def test_the_segment_becomes_the_staged_file(cache: Cache, target: Path, size: int) -> None:
    segment = opened(cache, size)
    inode = os.fstat(segment.fd).st_ino
    fd = segment.detach(str(target))
    assert fd is not None
    assert segment.fd == -1
    segment.close()
    assert os.fstat(fd).st_ino == target.stat().st_ino == inode
    assert target.stat().st_nlink == 1
    assert not cache.contains(KEY)
    assert list(data_path(cache, "object").parent.iterdir()) == []
    os.pwrite(fd, b"dirty", 0)
    os.close(fd)
    assert cache.find(KEY, size) is None
    assert cache.usage().used == 0


@sizes
def test_not_while_another_process_has_it_open(
    cache: Cache, other: Cache, target: Path, size: int
) -> None:
    segment = opened(cache, size)
    theirs = other.find(KEY, size)
    assert theirs is not None
    assert segment.detach(str(target)) is None
    assert not target.exists()
    assert segment.complete
    assert os.pread(segment.fd, size, 0) == content("object", size)
    theirs.close()
    fd = segment.detach(str(target))
    assert fd is not None
    os.close(fd)


def test_not_while_this_process_has_it_open_twice(cache: Cache, target: Path) -> None:
    segment = opened(cache, SMALL_SIZE)
    again = cache.find(KEY, SMALL_SIZE)
    assert again is not None
    assert segment.detach(str(target)) is None
    again.close()
    segment.close()


def test_not_while_the_kernel_keeps_the_description_of_a_dead_worker(
    cache: Cache, other: Cache, target: Path
) -> None:
    segment = opened(cache, SMALL_SIZE)
    kept = os.dup(segment.fd)  # as a registered backing file would
    segment.close()
    theirs = other.find(KEY, SMALL_SIZE)
    assert theirs is not None
    assert theirs.detach(str(target)) is None
    assert evict_all(other).segments == 0
    os.close(kept)
    fd = theirs.detach(str(target))
    assert fd is not None
    os.close(fd)


def test_the_shared_lock_is_held_again_after_a_refusal(
    cache: Cache, other: Cache, target: Path
) -> None:
    segment = opened(cache, SMALL_SIZE)
    theirs = other.find(KEY, SMALL_SIZE)
    assert theirs is not None
    assert segment.detach(str(target)) is None
    theirs.close()
    assert evict_all(other).segments == 0
    segment.close()
    assert evict_all(other).segments == 1


def test_only_one_process_tries_at_a_time(cache: Cache, target: Path) -> None:
    segment = opened(cache, SMALL_SIZE)
    turn = os.open(cache.shared.layout.detach_lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(turn, fcntl.LOCK_EX)
    with pytest.raises(TurnTaken):
        segment.detach(str(target))
    os.close(turn)
    fd = segment.detach(str(target))
    assert fd is not None
    os.close(fd)


def test_incomplete_segments_stay(cache: Cache, target: Path) -> None:
    segment = cache.create(KEY, LARGE)
    assert segment.detach(str(target)) is None
    segment.close()


def test_a_segment_that_was_evicted_stays_readable(cache: Cache, target: Path) -> None:
    segment = opened(cache, SMALL_SIZE)
    data_path(cache, "object").unlink()
    assert segment.detach(str(target)) is None
    assert not target.exists()
    assert os.pread(segment.fd, SMALL_SIZE, 0) == content("object", SMALL_SIZE)
    segment.close()


@sizes
def test_a_file_that_somebody_changed_is_not_taken(cache: Cache, target: Path, size: int) -> None:
    segment = opened(cache, size)
    flip(data_path(cache, "object"), 5)
    assert segment.detach(str(target)) is None
    segment.close()


def test_a_replacement_at_the_old_path_is_left_alone(
    cache: Cache, other: Cache, target: Path
) -> None:
    segment = opened(cache, SMALL_SIZE)
    other.store_small(KEY, content("object", SMALL_SIZE))
    assert segment.detach(str(target)) is None
    assert not target.exists()
    segment.close()
    found = other.find(KEY, SMALL_SIZE)
    assert found is not None
    assert os.pread(found.fd, SMALL_SIZE, 0) == content("object", SMALL_SIZE)
    found.close()


def test_a_taken_path_is_an_error_and_changes_nothing(cache: Cache, target: Path) -> None:
    target.write_bytes(b"")
    segment = opened(cache, LARGE)
    with pytest.raises(CacheError):
        segment.detach(str(target))
    assert segment.complete
    segment.close()
    assert cache.contains(KEY)
    assert map_path(cache, "object").exists()


@sizes
def test_a_detached_file_can_be_adopted_as_the_next_version(
    cache: Cache, target: Path, size: int
) -> None:
    fd = opened(cache, size).detach(str(target))
    assert fd is not None
    os.pwrite(fd, b"new", 0)
    key = key_of("next version")
    cache.adopt(key, target, size)
    segment = cache.find(key, size)  # although the writer has not closed it yet
    assert segment is not None
    assert segment.complete
    assert os.pread(segment.fd, 3, 0) == b"new"
    segment.close()
    os.close(fd)


@pytest.mark.parametrize("adopted", [False, True])
def test_a_descriptor_from_before_the_detachment_is_found_out(
    cache: Cache, other: Cache, target: Path, monkeypatch: pytest.MonkeyPatch, adopted: bool
) -> None:
    """Another process has opened the path, and locks and looks only after a writer has taken the
    file and changed it; it may even be another version of the object by then."""
    segment = opened(cache, SMALL_SIZE)
    real = fcntl.flock
    kept: list[int] = []

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        taken = segment.detach(str(target))
        assert taken is not None
        os.pwrite(taken, b"new", 0)
        os.utime(taken, ns=(0, os.fstat(fd).st_mtime_ns))
        kept.append(taken)
        if adopted:
            cache.adopt(key_of("next version"), target, SMALL_SIZE)
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert other.find(KEY, SMALL_SIZE) is None
    assert target.exists() != adopted
    assert cache.contains(key_of("next version")) == adopted
    os.close(kept[0])


def test_a_segment_evicted_between_open_and_lock_is_a_miss(
    cache: Cache, other: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.store_small(KEY, b"hello")
    real = fcntl.flock

    def flock(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        assert evict_all(cache).segments == 1
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    assert other.find(KEY, 5) is None
    assert other.events.corrupt_segments.value == 0
