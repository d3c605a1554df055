"""Eviction: what goes, what stays, and who does it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from csi_slayer.cache import BLOCK, Cache, Governor, evict_all
from csi_slayer.cache.bell import ring
from csi_slayer.errors import CacheFull
from csi_slayer.observability.logging import log_context
from tests.unit.cache.helpers import (
    content,
    crash,
    data_path,
    disk_bytes,
    fill,
    key_of,
    make_complete,
    map_path,
)

MIB = 1 << 20


def store(cache: Cache, name: str, size: int = 8192) -> None:
    """Store a small segment; each is younger than the one before, by the clock of its file."""
    assert cache.store_small(key_of(name), content(name, size))


def age(cache: Cache, *names: str) -> None:
    """Give the segments birth times in this order."""
    for second, name in enumerate(names):
        os.utime(data_path(cache, name), ns=(0, 10**18 + second * 10**9))


def store_aged(cache: Cache, *names: str) -> None:
    """Small segments of these ages, the oldest first."""
    for name in names:
        store(cache, name)
    age(cache, *names)


def reopen(cache: Cache, name: str, times: int, size: int = 8192) -> None:
    for _ in range(times):
        segment = cache.find(key_of(name), size)
        assert segment is not None
        segment.close()


def left(cache: Cache, *names: str) -> list[str]:
    return [name for name in names if cache.contains(key_of(name))]


@pytest.fixture
def governor(cache: Cache) -> Governor:
    return Governor(cache)


def test_the_oldest_goes_first(cache: Cache, governor: Governor) -> None:
    for name in "abc":
        store(cache, name)
    age(cache, *"bca")
    assert governor.take_over()
    assert governor.evict(1) == (1, 8192)
    assert left(cache, *"abc") == ["a", "c"]
    assert cache.events.evicted_segments.value == 1
    assert cache.events.evicted_bytes.value == 8192
    assert cache.usage().used == 16384
    governor.step_down()


def test_what_is_opened_again_outlives_what_is_not(cache: Cache, governor: Governor) -> None:
    names = [f"{n}" for n in range(10)]
    store_aged(cache, *names)
    reopen(cache, "0", 3)
    reopen(cache, "1", 1)
    governor.take_over()
    governor.evict(5 * 8192)
    assert left(cache, *names) == ["0", *names[6:]]
    governor.step_down()


def test_openings_in_other_processes_count(cache: Cache, other: Cache, governor: Governor) -> None:
    for name in "ab":
        store(cache, name)
    age(cache, *"ab")
    reopen(other, "a", 2)
    governor.take_over()
    governor.evict(1)
    assert left(cache, *"ab") == ["a"]
    governor.step_down()


def test_what_is_open_stays(cache: Cache, other: Cache, governor: Governor) -> None:
    for name in "abc":
        store(cache, name)
    age(cache, *"abc")
    segments = [cache.find(key_of("a"), 8192), other.find(key_of("b"), 8192)]
    governor.take_over()
    assert governor.evict(100 * 8192) == (1, 8192)
    assert left(cache, *"abc") == ["a", "b"]
    for segment in segments:
        assert segment is not None
        segment.close()
    assert governor.evict(100 * 8192) == (2, 2 * 8192)
    governor.step_down()


def test_the_kernel_keeps_what_it_serves_after_the_worker_died(
    cache: Cache, root: Path, governor: Governor
) -> None:
    worker = Cache(root, cache.capacity)
    store(worker, "a")
    segment = worker.find(key_of("a"), 8192)
    assert segment is not None
    kept = os.dup(segment.fd)
    crash(worker)
    governor.take_over()
    assert governor.evict(1).segments == 0
    os.close(kept)
    assert governor.evict(1).segments == 1
    governor.step_down()


def test_a_segment_goes_with_its_map(cache: Cache, governor: Governor) -> None:
    make_complete(cache, "object", 9 * BLOCK)
    path = map_path(cache, "object")
    used = disk_bytes(cache)
    governor.take_over()
    assert governor.evict(1) == (1, used)
    assert not path.exists()
    assert cache.usage().used == 0
    governor.step_down()


def test_segments_that_came_after_the_count_are_found(cache: Cache, governor: Governor) -> None:
    governor.take_over()
    store(cache, "a")
    assert governor.evict(1).segments == 1
    governor.step_down()


def test_few_segments_are_known_at_once(
    cache: Cache, governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None before something has to go, then the oldest, and others when half of them are gone."""
    monkeypatch.setattr("csi_slayer.cache.governor.KNOWN", 8)
    names = [f"{number}" for number in range(30)]
    store_aged(cache, *names)
    governor.take_over()
    assert len(governor._policy) == 0
    for gone in range(1, 31):
        assert governor.evict(1).segments == 1
        assert len(governor._policy) <= 8
        assert left(cache, *names) == names[gone:]
    assert governor.evict(1).segments == 0
    assert cache.usage().segments == 30
    governor.look()
    assert cache.usage().segments == 0
    governor.step_down()


def test_what_is_open_does_not_hide_the_rest(
    cache: Cache, governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csi_slayer.cache.governor.KNOWN", 8)
    names = [f"{n:02}" for n in range(12)]
    store_aged(cache, *names)
    held = [cache.find(key_of(name), 8192) for name in names[:8]]
    governor.take_over()
    assert governor.evict(1) == (0, 0), "all that is known is open"
    assert governor.evict(1) == (1, 8192)
    assert left(cache, *names) == [*names[:8], *names[9:]]
    for segment in held:
        assert segment is not None
        segment.close()
    governor.step_down()


def test_segments_that_others_removed_are_no_trouble(
    cache: Cache, other: Cache, governor: Governor
) -> None:
    for name in "ab":
        store(cache, name)
    governor.take_over()
    assert evict_all(other).segments == 2
    store(cache, "c")
    assert governor.evict(100 * 8192) == (1, 8192)
    governor.step_down()


def test_staged_files_and_conflicts_stay(cache: Cache, governor: Governor) -> None:
    staging = cache.staging("v")
    stage = staging.create()
    os.write(stage.fd, bytes(MIB))
    os.close(stage.fd)
    governor.take_over()
    governor.look()
    assert cache.usage().staged == MIB
    governor.evict(10 * MIB)
    assert stage.path.exists()
    kept = cache.conflicts("v").keep(staging, stage.id, key="k", expected=None, found=None)
    governor.look()
    assert cache.usage().staged >= MIB
    governor.evict(10 * MIB)
    assert kept.exists()
    governor.step_down()


def test_a_look_brings_it_below_the_low_mark(root: Path) -> None:
    cache = Cache(root, 4 * MIB)
    governor = Governor(cache)
    governor.take_over()
    number = 0
    while cache.store_small(key_of(f"{number}"), bytes(40_000)):
        number += 1
    governor.look()
    assert disk_bytes(cache) <= 4 * MIB * 90 // 100
    assert disk_bytes(cache) >= 4 * MIB * 80 // 100
    assert governor.look() == (0, 0)
    assert cache.usage().segments == sum(cache.contains(key_of(f"{n}")) for n in range(number))
    governor.step_down()
    cache.close()


def test_growing_staged_data_makes_clean_data_go(root: Path) -> None:
    cache = Cache(root, 4 * MIB)
    governor = Governor(cache)
    governor.take_over()
    for number in range(60):
        cache.store_small(key_of(f"{number}"), bytes(50_000))
    stage = cache.staging("v").create()
    os.write(stage.fd, bytes(3 * MIB))
    governor.look()
    assert disk_bytes(cache) + 3 * MIB <= 4 * MIB * 90 // 100
    os.close(stage.fd)
    governor.step_down()
    cache.close()


def test_the_floor_of_free_space_makes_clean_data_go(
    cache: Cache, governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        store(cache, f"{number}")
    ledger = cache.shared.ledger
    monkeypatch.setattr(ledger, "min_free", MIB)
    monkeypatch.setattr(ledger, "free_space", lambda: MIB - 1)
    governor.take_over()
    assert governor.look().segments == 10
    governor.step_down()


def test_what_the_ledger_does_not_know_of_adds_up_until_as_much_was_removed_as_it_holds(
    cache: Cache, governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that tells too late what files have grown by."""
    governor.take_over()
    unknown = data_path(cache, "unknown").with_name(".unknown")
    unknown.write_bytes(bytes(8192))
    monkeypatch.setattr(cache.shared.ledger, "capacity", 3 * 8192)
    monkeypatch.setattr(cache.shared.ledger, "excess", lambda: 8192)
    for number in range(6):
        monkeypatch.setattr(governor, "_count_after", 0.0 if number else 1e12)
        store(cache, f"{number}")
        assert disk_bytes(cache) - cache.usage().used == (8192 if number < 5 else 0)
        assert governor.look().segments == 1
    governor.step_down()


def test_the_number_of_segments_follows_soon_but_not_often(
    cache: Cache, governor: Governor, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor.take_over()
    for number in range(10):
        store(cache, f"{number}")
    assert cache.usage().segments == 0
    governor.look()
    assert cache.usage().segments == 10
    store(cache, "more")
    governor.look()
    assert cache.usage().segments == 10
    monkeypatch.setattr(governor, "_count_names_after", 0.0)
    governor.look()
    assert cache.usage().segments == 11
    governor.step_down()


def test_there_is_one_governor(cache: Cache, other: Cache) -> None:
    first, second = Governor(cache), Governor(other)
    assert first.take_over()
    assert first.governs
    assert not second.take_over()
    assert not second.governs
    first.step_down()
    assert second.take_over()
    second.step_down()


def test_what_the_governor_logs_says_of_which_volume_it_is(cache: Cache) -> None:
    governor = Governor(cache)
    with capture_logs([merge_contextvars]) as logs:
        with log_context(volume="v"):
            governor.start()
        deadline = time.monotonic() + 10
        while not logs and time.monotonic() < deadline:
            time.sleep(0.01)
        governor.close()
    assert [(entry["event"], entry["volume"]) for entry in logs] == [
        ("cache governor took over", "v")
    ]


def test_a_transfer_waits_for_the_governors_thread_to_make_room(root: Path) -> None:
    cache = Cache(root, 4 * MIB)
    while cache.store_small(key_of(f"{os.urandom(8)!r}"), bytes(40_000)):
        pass
    governor = Governor(cache)
    governor.start()
    size = 8 * BLOCK
    segment = cache.create(key_of("object"), size)
    sink = segment.sink(lambda _offset, _length: None, end=size)
    data = content("object", size)
    for offset in range(0, size, BLOCK):
        sink.write(offset, memoryview(data)[offset : offset + BLOCK])
    assert segment.complete
    segment.close()
    governor.close()
    assert not governor.governs
    cache.close()


def test_the_standby_takes_over_when_the_governor_is_gone(
    cache: Cache, other: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csi_slayer.cache.governor.PERIOD", 0.01)
    first, second = Governor(cache), Governor(other)
    assert first.take_over()
    looked = threading.Event()
    monkeypatch.setattr(second, "look", looked.set)
    second.start()
    assert not second.governs
    first.step_down()
    assert looked.wait(30)
    second.close()


def test_the_bell_does_not_block_when_nobody_hears_it(cache: Cache, governor: Governor) -> None:
    ring(cache.shared.layout)
    governor.take_over()
    for _ in range(70_000):
        ring(cache.shared.layout)
    governor.step_down()


def test_evict_all_leaves_what_is_open(cache: Cache) -> None:
    make_complete(cache, "object", 9 * BLOCK)
    store(cache, "open")
    store(cache, "closed")
    segment = cache.find(key_of("open"), 8192)
    assert segment is not None
    assert evict_all(cache).segments == 2
    assert disk_bytes(cache) == 8192
    assert cache.usage().used == 8192
    segment.close()


def test_a_full_cache_with_everything_open_bypasses(root: Path) -> None:
    cache = Cache(root, 2 * MIB)
    segment = cache.create(key_of("object"), 15 * BLOCK)
    fill(segment, content("object", 15 * BLOCK))
    governor = Governor(cache)
    governor.take_over()
    assert governor.look().segments == 0
    assert not cache.store_small(key_of("small"), bytes(MIB))
    second = cache.create(key_of("second"), 9 * BLOCK)
    with pytest.raises(CacheFull):
        second.write_block(0, bytes(BLOCK))
    assert not second.present(0, 1)
    second.close()
    segment.close()
    governor.step_down()
    cache.close()
