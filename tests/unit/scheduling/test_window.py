"""The readahead window grows for readers that wait, and closes for those that jump."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.scheduling.window import MAXIMUM, MINIMUM, SLACK, Window

STEP = 128 << 10

requests = st.lists(
    st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 20), st.booleans()), max_size=100
)


@given(requests)
def test_the_window_is_bounded(steps: list[tuple[int, int, bool]]) -> None:
    window = Window()
    for offset, length, stalled in steps:
        end = offset + length
        assert end <= window.note(offset, end, stalled=stalled) <= end + MAXIMUM


@given(st.integers(1, 60))
def test_a_stalling_reader_doubles_it(stalls: int) -> None:
    window, offset = Window(), 0
    sizes = []
    for _ in range(stalls):
        sizes.append(window.note(offset, offset + STEP, stalled=True) - (offset + STEP))
        offset += STEP
    assert sizes == [min(MAXIMUM, MINIMUM * 2 ** (n + 1)) for n in range(stalls)]


def test_a_reader_that_never_waits_has_twice_what_it_read() -> None:
    window = Window()
    for number in range(400):
        end = (number + 1) * STEP
        ahead = window.note(end - STEP, end, stalled=False) - end
        assert ahead == max(MINIMUM, min(MAXIMUM, 2 * end))


def test_after_a_jump_it_begins_small() -> None:
    window, place = Window(), 1 << 40
    for number in range(400):
        window.note(number * STEP, (number + 1) * STEP, stalled=False)
    window.note(place, place + STEP, stalled=False)
    end = place + 2 * STEP
    assert window.note(end - STEP, end, stalled=False) - end == 2 * STEP


@given(st.integers(SLACK + STEP + 1, 1 << 40))
def test_a_jump_closes_it_at_once(distance: int) -> None:
    window = Window()
    window.note(0, STEP, stalled=True)
    assert window.note(distance, distance + STEP, stalled=True) == distance + STEP
    assert not window.sequential
    again = window.note(distance + STEP, distance + 2 * STEP, stalled=True)
    assert again == distance + 2 * STEP + MINIMUM
    assert window.sequential


@given(st.permutations(range(8)))
def test_requests_out_of_order_count_as_sequential(order: list[int]) -> None:
    """The kernel's own readahead has several requests in flight."""
    window = Window()
    for number in order:
        window.note(number * STEP, (number + 1) * STEP, stalled=False)
        assert window.sequential


def test_who_reads_backwards_or_here_and_there_within_the_slack_stays_at_what_he_asks() -> None:
    """In a small part of a file any two requests are near each other."""
    window = Window.at(16 << 20, None)
    for offset in [STEP * n for n in (9, 40, 12, 90, 70, 68, 66, 64)]:
        assert window.note(offset, offset + STEP, stalled=True) == offset + STEP


def test_a_reader_who_goes_on_in_the_next_part_keeps_his_window() -> None:
    window, part = Window(), 16 << 20
    for offset in range(0, part, STEP):
        ahead = window.note(offset, offset + STEP, stalled=False)
    again = Window.at(part, window)
    assert again.note(0, STEP, stalled=False) - STEP >= ahead - part


def test_who_begins_in_a_part_that_nobody_read_to_has_jumped() -> None:
    before = Window()
    before.note(0, STEP, stalled=True)
    for window in (Window.at(64 << 20, before), Window.at(64 << 20, None)):
        assert window.note(0, STEP, stalled=True) == STEP
        assert window.note(STEP, 2 * STEP, stalled=True) > 2 * STEP
