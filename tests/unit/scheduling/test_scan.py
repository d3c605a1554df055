"""Walks of directories are noticed, everything else fetches nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.scheduling.scan import MAXIMUM, START, WATCHED, Scan


def test_the_first_open_of_a_directory_is_no_walk() -> None:
    assert Scan().opened(1, 5)[1] == 0


def test_a_walk_is_fetched_ahead_in_growing_batches() -> None:
    scan = Scan()
    assert scan.opened(1, 100)[1] == 0
    assert scan.opened(1, 101) == (101, START)
    counts = [scan.opened(1, ino)[1] for ino in range(102, 1000)]
    assert max(counts) <= MAXIMUM
    assert sum(count > 0 for count in counts) < 60


def test_after_the_names_were_read_the_first_open_is_a_walk() -> None:
    scan = Scan()
    scan.listed(1, 100)
    assert scan.opened(1, 100) == (100, 2 * START)
    scan.listed(1, 100)  # again, by somebody else: the walk goes on
    assert scan.opened(1, 101) == (116, 17)


def test_reading_names_alone_makes_no_distant_open_a_walk() -> None:
    scan = Scan()
    scan.listed(1, 100)
    assert scan.opened(1, 5000) == (5000, 0)


def test_going_back_is_no_walk() -> None:
    scan = Scan()
    for ino in (10, 11, 12):
        scan.opened(1, ino)
    assert scan.opened(1, 11) == (11, 0)
    assert scan.opened(1, 5000) == (5000, 0)


@given(st.lists(st.integers(1, 4), min_size=5, max_size=400))
def test_nothing_is_fetched_twice_and_never_too_far(gaps: list[int]) -> None:
    """A walk over numbers with small gaps: batches follow each other without overlap."""
    scan = Scan()
    ino, fetched = 1000, 0
    for gap in gaps:
        ino += gap
        start, count = scan.opened(7, ino)
        assert start >= ino
        assert 0 <= count <= MAXIMUM
        assert start - ino <= MAXIMUM
        if count:
            assert start >= fetched
            fetched = start + count


@given(st.integers(30, 300))
def test_a_walker_soon_finds_every_file_fetched(length: int) -> None:
    scan = Scan()
    fetched: set[int] = set()
    missed = 0
    for ino in range(500, 500 + length):
        missed += ino not in fetched
        start, count = scan.opened(7, ino)
        fetched.update(range(start + 1, start + count + 1))
    assert missed <= 2


@given(st.lists(st.tuples(st.integers(0, 2 * WATCHED), st.integers(1, 10_000)), max_size=600))
def test_memory_is_bounded(opens: list[tuple[int, int]]) -> None:
    scan = Scan()
    for parent, ino in opens:
        scan.opened(parent, ino)
    assert len(scan._seen) <= WATCHED


def test_reached_moves_the_next_batch_on() -> None:
    scan = Scan()
    scan.opened(1, 100)
    scan.opened(1, 101)
    scan.reached(1, 140)
    assert scan.opened(1, 102) == (140, 0)
    scan.reached(99, 5)  # a directory that is not watched
