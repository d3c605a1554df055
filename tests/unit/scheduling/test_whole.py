"""What large files are read of decides whether the next one is fetched at its open."""

from __future__ import annotations

from csi_slayer.scheduling.whole import LARGE, TRIAL, WholeReads


def test_the_first_one_is_and_small_ones_are_not() -> None:
    reads = WholeReads()
    assert reads.expected(LARGE)
    assert not reads.expected(LARGE - 1)


def test_one_of_eight_shows_what_is_read() -> None:
    reads = WholeReads()
    answers = [reads.expected(LARGE) for _ in range(3 * TRIAL)]
    assert [number for number, answer in enumerate(answers) if not answer] == [2, 10, 18]


def test_who_closes_at_once_has_not_read_it() -> None:
    reads = WholeReads()
    reads.held(2 << 30, 0.2)  # 10 GB/s: from memory
    assert reads.expected(LARGE)
    reads.held(2 << 30, 0.01)
    assert not reads.expected(LARGE)


def test_what_was_seen_last_counts() -> None:
    reads = WholeReads()
    reads.read(LARGE, LARGE // 2)
    assert not reads.expected(LARGE)
    reads.read(LARGE - 1, LARGE - 1)
    assert not reads.expected(LARGE), "a smaller one says nothing"
    reads.read(LARGE, LARGE - 4096)
    assert reads.expected(LARGE)
