"""What is dropped behind a reader: once, far behind, and nothing that was not read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.scheduling.behind import KEEP, STEP, Behind
from csi_slayer.scheduling.window import SLACK

MIB = 1 << 20

requests = st.lists(
    st.tuples(st.integers(0, 64).map(lambda n: n * 4 * MIB), st.integers(1, 80), st.booleans()),
    max_size=20,
)


def sequential(behind: Behind, start: int, end: int, *, drop: bool = True) -> list[range]:
    found = [behind.note(o, o + MIB, drop=drop) for o in range(start, end, MIB)]
    return [passed for passed in found if passed is not None]


def test_a_reader_leaves_everything_behind_but_the_last_part() -> None:
    passed = sequential(Behind(), 0, 400 * MIB)
    assert passed[0].start == 0
    assert passed[-1].stop == 400 * MIB - KEEP
    assert [p.start for p in passed[1:]] == [p.stop for p in passed[:-1]]
    assert all(len(p) == STEP for p in passed)


def test_nothing_goes_while_memory_is_cheap_and_all_of_it_afterwards() -> None:
    behind = Behind()
    assert sequential(behind, 0, 200 * MIB, drop=False) == []
    assert behind.note(200 * MIB, 201 * MIB, drop=True) == range(168 * MIB)


def test_what_is_read_a_second_time_stays() -> None:
    behind = Behind()
    assert sequential(behind, 0, 200 * MIB) != []
    assert sequential(behind, 0, 200 * MIB) == []


def test_a_reader_that_jumps_drops_only_what_it_reads_from_there() -> None:
    behind = Behind()
    behind.note(500 * MIB + 1, 501 * MIB, drop=True)
    passed = sequential(behind, 501 * MIB, 600 * MIB)
    assert passed[0].start == 504 * MIB


def test_two_readers_far_apart_keep_what_they_share() -> None:
    behind = Behind()
    for number in range(200):
        assert behind.note(number * MIB, (number + 1) * MIB, drop=True) is None
        there = 300 * MIB + number * MIB
        assert behind.note(there, there + MIB, drop=True) is None


@given(requests)
def test_the_parts_are_far_behind_apart_and_were_read(
    runs: list[tuple[int, int, bool]],
) -> None:
    behind, dropped, read = Behind(), set[int](), set[int]()
    for start, count, drop in runs:
        for offset in range(start, start + count * MIB, MIB):
            read.add(offset)
            passed = behind.note(offset, offset + MIB, drop=drop)
            if passed is None:
                continue
            assert passed.start % STEP == passed.stop % STEP == 0
            assert passed.stop <= max(read) + MIB - KEEP
            blocks = set(passed[::MIB])
            assert not blocks & dropped
            # A small jump counts as sequential: so much can be missing.
            assert all(any(abs(r - b) <= SLACK for r in read) for b in blocks)
            dropped |= blocks
