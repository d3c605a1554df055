"""Workers that do not govern: another process keeps their cache within its capacity."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.cache import Cache, Governor
from tests.integration.worker.conftest import MakePlace
from tests.integration.worker.workers import Place

MIB = 1 << 20
CAPACITY = 64 * MIB


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def governor(shared: Path) -> Iterator[Governor]:
    cache = Cache(shared, CAPACITY, min_free=0)
    governor = Governor(cache)
    governor.start()
    yield governor
    governor.close()
    cache.close()


def _place(make_place: MakePlace, shared: Path) -> Place:
    place = make_place({"cache.directory": str(shared), "cache.capacity": CAPACITY,
                        "cache.min_free": 0}, governs=False)  # fmt: skip
    objects = place.root.parent / "objects"
    for number in range(10):
        (objects / f"file{number}").write_bytes(bytes([number]) * 8 * MIB)
    return place


def test_two_volumes_read_more_than_the_cache_holds(
    make_place: MakePlace, shared: Path, governor: Governor
) -> None:
    places = [_place(make_place, shared) for _ in range(2)]
    workers = [place.start().ready() for place in places]
    for number in range(10):
        for place in places:
            data = (place.root / f"file{number}").read_bytes()
            assert data == bytes([number]) * 8 * MIB
    for worker in workers:
        cache = worker.ask("status")["cache"]
        assert 0 < cache["bytes"] <= CAPACITY
        assert "cache governor" not in worker.place.log.read_text()
    # The room was made: what was read last is in the cache.
    last = workers[1].ask("status")["counters"]["cache_miss_bytes"]
    assert (places[1].root / "file9").read_bytes() == bytes([9]) * 8 * MIB
    assert workers[1].ask("status")["counters"]["cache_miss_bytes"] == last


def test_without_any_governor_a_full_cache_is_gone_past(
    make_place: MakePlace, shared: Path
) -> None:
    place = _place(make_place, shared)
    worker = place.start().ready()
    for number in range(10):
        assert (place.root / f"file{number}").read_bytes() == bytes([number]) * 8 * MIB
    assert worker.ask("status")["cache"]["bytes"] <= CAPACITY
