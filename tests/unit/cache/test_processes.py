"""Several processes and one cache directory, with nothing else between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache, Governor, evict_all
from tests.unit.cache.helpers import CAPACITY, content, disk_bytes, key_of, make_complete
from tests.unit.cache.peer import Peer

SIZE = 9 * BLOCK + 11


@pytest.fixture
def peer(root: Path) -> Iterator[Peer]:
    with Peer(root, CAPACITY) as made:
        yield made


def test_blocks_written_by_one_are_present_for_the_other_at_once(cache: Cache, peer: Peer) -> None:
    segment = cache.create(key_of("object"), SIZE)
    peer.do("create", "object", SIZE)
    peer.do("write", "object", 0, 1, 2)
    assert segment.missing(0, SIZE) == [(3 * BLOCK, SIZE - 3 * BLOCK)]
    assert os.pread(segment.fd, 3 * BLOCK, 0) == content("object", SIZE)[: 3 * BLOCK]
    for block in range(3, 10):
        data = content("object", SIZE)[block * BLOCK : (block + 1) * BLOCK]
        segment.write_block(block * BLOCK, data)
    assert segment.complete
    assert peer.do("is_complete", "object")
    assert peer.do("is_good", "object")
    segment.close()


def test_what_a_killed_process_wrote_stays(cache: Cache, peer: Peer) -> None:
    peer.do("create", "object", SIZE)
    peer.do("write", "object", 4)
    peer.do("store", "small", 5000)
    peer.kill()
    segment = cache.find(key_of("object"), SIZE)
    assert segment is not None
    assert segment.needs_verify  # of a part, nothing says that it is as its writer left it
    assert segment.verify() == 0
    assert not segment.needs_verify
    assert segment.missing(0, SIZE) == [(0, 4 * BLOCK), (5 * BLOCK, SIZE - 5 * BLOCK)]
    segment.close()
    small = cache.find(key_of("small"), 5000)
    assert small is not None
    assert small.complete
    small.close()


def test_what_a_process_has_open_is_evicted_by_none_until_it_dies(cache: Cache, peer: Peer) -> None:
    make_complete(cache, "object", SIZE)
    assert peer.do("hold", "object", SIZE)
    assert evict_all(cache).segments == 0
    segment = cache.find(key_of("object"), SIZE)
    assert segment is not None
    assert segment.detach(str(cache.staging("v").reserve().path)) is None
    assert peer.do("is_good", "object")
    peer.kill()
    fd = segment.detach(str(cache.staging("v").reserve().path))
    assert fd is not None
    os.close(fd)


def test_an_evicted_segment_stays_readable_where_it_is_open(cache: Cache, peer: Peer) -> None:
    """An administrator may remove files under our hands."""
    make_complete(cache, "object", SIZE)
    assert peer.do("hold", "object", SIZE)
    os.unlink(cache.shared.layout.data(key_of("object").hex))
    assert cache.find(key_of("object"), SIZE) is None
    assert peer.do("is_good", "object")


def test_the_governor_may_be_in_another_process_and_die(cache: Cache, peer: Peer) -> None:
    cache.store_small(key_of("a"), content("a", 5000))
    governor = Governor(cache)
    assert peer.do("take_over")
    assert not governor.take_over()
    assert peer.do("evict", 1) == 1
    assert cache.usage().used == 0
    peer.kill()
    assert governor.take_over()
    governor.step_down()


def test_the_grain_of_a_killed_process_comes_back(cache: Cache, peer: Peer) -> None:
    peer.do("store", "small", 5000)
    assert cache.shared.ledger.file.taken > 8192
    assert cache.usage().used == 8192
    peer.kill()
    cache.shared.ledger.file.reclaim()
    assert cache.shared.ledger.file.taken == 8192


def test_processes_that_fill_the_cache_together_do_not_overfill_it(root: Path) -> None:
    capacity = 4 << 20
    with Peer(root, capacity) as first, Peer(root, capacity) as second:
        answers = [
            peer.begin("store_many", prefix, 300, 20_000)
            for peer, prefix in ((first, "a"), (second, "b"))
        ]
        stored = sum(answer() for answer in answers)
        cache = Cache(root, capacity)
        assert disk_bytes(cache) <= capacity
        assert stored * 20480 == disk_bytes(cache) == cache.usage().used
        assert stored * 20480 > capacity * 9 // 10
        cache.close()


def test_two_writers_never_take_the_same_segment(cache: Cache, root: Path) -> None:
    names = [f"object {number}" for number in range(300)]
    for name in names:
        cache.store_small(key_of(name), content(name, 2000))
    with Peer(root, CAPACITY) as first, Peer(root, CAPACITY) as second:
        answers = [peer.begin("detach_all", names, 2000) for peer in (first, second)]
        evict_all(cache)
        taken = [set(answer()) for answer in answers]
    assert not taken[0] & taken[1]
    staged = {stage.path.read_bytes()[5:15].split(b"\0")[0] for stage in cache.staging("v").list()}
    assert len(staged) <= len(taken[0] | taken[1])
    assert sum(1 for _ in cache.staging("v").list()) == len(taken[0]) + len(taken[1])
