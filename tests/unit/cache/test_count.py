"""Counting what is there, whatever the ledger says."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi_slayer.cache import Cache, SegmentKey, count
from csi_slayer.cache.count import Counted


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", 1 << 30)


def key(number: int) -> SegmentKey:
    return SegmentKey(f"{number:032x}")


def test_segments_are_counted_that_no_governor_has_seen(cache: Cache) -> None:
    for number in range(3):
        assert cache.store_small(key(number << 120), b"x" * 5000)
    assert cache.usage().segments == 0, "the ledger's number is that of the last round"
    found = count(cache.shared.layout, 10)
    assert found == Counted(3, 3 * 8192, 0, complete=True)
    cache.close()


def test_maps_and_staged_files_are_no_segments_and_take_room(cache: Cache) -> None:
    cache.create(key(1), 10 << 20).close()
    staged = cache.shared.layout.root / "staging" / "volume"
    staged.mkdir(parents=True)
    (staged / "file").write_bytes(b"x" * 4096)
    conflicts = cache.shared.layout.root / "conflicts" / "volume"
    conflicts.mkdir(parents=True)
    (conflicts / "file").write_bytes(b"x" * 8192)
    found = count(cache.shared.layout, 10)
    assert found.segments == 1 and found.used > 0
    assert found.staged == 4096
    assert found.conflicts == 8192
    cache.close()


def test_nothing_is_removed_and_the_time_is_a_limit(cache: Cache) -> None:
    layout = cache.shared.layout
    left_over = Path(layout.temporary("0" * 32))
    left_over.write_bytes(b"x")
    seen: list[int] = []
    found = count(layout, 0, lambda so_far: seen.append(so_far.segments))
    assert not found.complete
    assert seen == [0]
    assert count(layout, 10).complete
    assert left_over.exists()
    cache.close()
