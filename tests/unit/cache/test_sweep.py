"""What crashes left behind is cleaned up, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache, Governor
from csi_slayer.cache import sweep as module
from csi_slayer.cache.sweep import sweep
from tests.unit.cache.helpers import (
    data_path,
    disk_bytes,
    key_of,
    make_complete,
    map_path,
)

SIZE = 9 * BLOCK


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a minute has passed."""
    monkeypatch.setattr(module, "STALE", -1.0)


def shard(cache: Cache) -> Path:
    return data_path(cache, "object").parent


def test_what_is_under_way_is_left_alone(cache: Cache) -> None:
    path = Path(cache.shared.layout.temporary(key_of("object").hex))
    path.write_bytes(b"half")
    sweep(cache.shared.layout)
    assert path.exists()


@pytest.mark.usefixtures("later")
def test_an_abandoned_temporary_file_goes(cache: Cache) -> None:
    Path(cache.shared.layout.temporary(key_of("object").hex)).write_bytes(b"half")
    sweep(cache.shared.layout)
    assert list(shard(cache).iterdir()) == []


@pytest.mark.usefixtures("later")
def test_a_temporary_file_in_use_stays(cache: Cache, other: Cache) -> None:
    cache.store_small(key_of("object"), b"hello")
    segment = cache.find(key_of("object"), 5)
    assert segment is not None
    path = Path(cache.shared.layout.temporary(key_of("object").hex))
    os.rename(data_path(cache, "object"), path)
    sweep(other.shared.layout)
    assert path.exists()
    segment.close()


@pytest.mark.usefixtures("later")
def test_a_map_without_its_data_goes(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    data_path(cache, "object").unlink()
    sweep(cache.shared.layout)
    assert list(shard(cache).iterdir()) == []


@pytest.mark.usefixtures("later")
def test_a_map_of_replaced_data_goes(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    stale = map_path(cache, "object")
    data_path(cache, "object").unlink()
    make_complete(cache, "object", SIZE)
    sweep(cache.shared.layout)
    assert not stale.exists()
    assert map_path(cache, "object").exists()
    segment = cache.find(key_of("object"), SIZE)
    assert segment is not None
    assert segment.complete
    segment.close()


@pytest.mark.usefixtures("later")
def test_large_data_without_a_map_goes(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    map_path(cache, "object").unlink()
    sweep(cache.shared.layout)
    assert list(shard(cache).iterdir()) == []


@pytest.mark.usefixtures("later")
def test_good_segments_stay(cache: Cache) -> None:
    make_complete(cache, "object", SIZE)
    make_complete(cache, "mapped, though small", 2 * BLOCK)
    cache.store_small(key_of("small"), b"hello")
    found = sweep(cache.shared.layout)
    assert found.segments == 3
    assert found.used == disk_bytes(cache)
    assert cache.contains(key_of("object"))
    map_path(cache, "object")
    map_path(cache, "mapped, though small")


@pytest.mark.usefixtures("later")
def test_a_missing_shard_is_no_trouble(cache: Cache) -> None:
    shard(cache).rmdir()
    assert sweep(cache.shared.layout).segments == 0
    governor = Governor(cache)
    assert governor.take_over()
    governor.evict(1)
    governor.step_down()
