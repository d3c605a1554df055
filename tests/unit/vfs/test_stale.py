"""Which inodes' pages the kernel is to drop."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.vfs.marks import MOST
from csi_slayer.vfs.stale import StalePages

NEXT = 40


def make(kept: int = 100) -> StalePages:
    return StalePages(lambda: NEXT, kept)


def test_what_was_changed_is_dropped_once() -> None:
    stale = make()
    stale.add(5)
    assert [stale.take(5), stale.take(5), stale.take(6)] == [True, False, False]


def test_what_the_kernel_has_forgotten_is_not_remembered() -> None:
    stale = make(kept=1)
    for ino in range(10):
        stale.add(ino)
        stale.forgotten(ino)
    assert not stale.take(3)


def test_of_too_many_each_is_dropped_once() -> None:
    stale = make(kept=2)
    for ino in (1, 2, 3):
        stale.add(ino)
    for ino in (1, 2, 3, 4, NEXT - 1):
        assert [stale.take(ino), stale.take(ino)] == [True, False]
    assert not stale.take(NEXT)
    stale.add(3)
    assert [stale.take(3), stale.take(3), stale.take(4)] == [True, False, False]


def test_beyond_the_numbers_that_have_a_bit_all_stay_stale() -> None:
    stale = StalePages(lambda: MOST + 10, 0)
    stale.add_all()
    assert [stale.take(MOST + 1), stale.take(MOST + 1)] == [True, True]
    assert not stale.take(MOST + 10)


CALLS = st.tuples(st.sampled_from(["add", "take", "forgotten"]), st.integers(1, NEXT + 9))


@given(st.lists(CALLS), st.integers(0, 5), st.booleans())
def test_no_change_is_overlooked(calls: list[tuple[str, int]], kept: int, every: bool) -> None:
    stale = StalePages(lambda: NEXT + 10, kept)
    changed: set[int] = set()
    if every:
        stale.add_all()
        changed = set(range(NEXT + 10))
    for call, ino in calls:
        if call == "add":
            stale.add(ino)
            changed.add(ino)
        elif call == "take":
            taken = stale.take(ino)
            assert taken or ino not in changed
            changed.discard(ino)
            assert not stale.take(ino)
        else:
            stale.forgotten(ino)
            changed.discard(ino)
            assert ino not in stale
    assert all(ino in stale for ino in changed)


def test_of_each_change_who_appends_is_told_once() -> None:
    stale = make()
    assert not stale.tell(5)
    for _ in range(2):
        stale.add(5)
        assert [stale.tell(5), stale.tell(5)] == [True, False]
    assert stale.take(5)
    assert not stale.tell(5)
