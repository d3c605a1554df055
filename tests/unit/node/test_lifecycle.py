"""Decisions about a worker that ended."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.node.lifecycle import BACKOFF_FIRST, BACKOFF_MAX, YOUNG, CannotStart, Lifecycle


def mounted() -> Lifecycle:
    life = Lifecycle({"spec": 1})
    life.heard({"session": {"connection": 5}}, [])
    life.announced = True
    return life


def test_a_first_worker_is_told_the_specification_only() -> None:
    message, fds = Lifecycle({"x": 1}, bound=True).first_message()
    assert message == {"spec": {"x": 1}, "session": None, "restarts": 0, "bound": True}
    assert fds == ()


def test_its_successor_gets_session_and_descriptor() -> None:
    life = Lifecycle({})
    read, write = os.pipe()
    life.heard({"session": {"connection": 5}}, [read])
    assert life.died(-9, 1.0) == BACKOFF_FIRST
    message, fds = life.first_message()
    assert message["session"] == {"connection": 5}
    assert message["restarts"] == 1
    assert fds == (read,)
    life.let_go()
    life.let_go()
    with pytest.raises(OSError):
        os.fstat(read)
    os.close(write)


def test_descriptors_that_nobody_asked_for_are_closed() -> None:
    read, write = os.pipe()
    Lifecycle({}).heard({"ready": 1}, [read, write])
    for fd in (read, write):
        with pytest.raises(OSError):
            os.fstat(fd)


def test_an_orderly_end_is_the_end_whatever_the_status() -> None:
    life = mounted()
    life.heard({"ended": 0}, [])
    assert life.died(None, 1.0) is None
    assert mounted().died(0, 1.0) is None
    life = mounted()
    life.heard({"ended": 3}, [])
    assert life.died(0, 1.0) is None
    assert life.left == 3


def test_an_error_is_raised_before_anybody_was_told_that_it_is_mounted() -> None:
    life = Lifecycle({})
    life.heard({"error": "no bucket", "code": "NOT_FOUND"}, [])
    with pytest.raises(CannotStart, match="no bucket") as raised:
        life.died(3, 0.1)
    assert raised.value.code == "NOT_FOUND"


def test_later_it_is_a_reason_to_try_again() -> None:
    life = mounted()
    life.heard({"error": "the store is away"}, [])
    assert life.died(3, 0.1) == BACKOFF_FIRST
    taken_over = Lifecycle({}, session={"connection": 5})
    taken_over.heard({"error": "the store is away"}, [])
    assert taken_over.died(3, 0.1) == BACKOFF_FIRST


def test_one_that_never_mounted_is_not_tried_again() -> None:
    with pytest.raises(CannotStart, match="-9"):
        Lifecycle({}).died(-9, 0.1)


@pytest.mark.parametrize(
    ("status", "code"), [(-9, "UNAVAILABLE"), (None, "UNAVAILABLE"), (3, "INTERNAL")]
)
def test_one_that_was_killed_before_it_mounted_is_worth_another_call(
    status: int | None, code: str
) -> None:
    with pytest.raises(CannotStart) as refused:
        Lifecycle({}).died(status, 1.0)
    assert refused.value.code == code


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_pauses_grow_while_workers_die_young_and_are_bounded(old: list[bool]) -> None:
    life = mounted()
    expected = BACKOFF_FIRST
    for number, lived_long in enumerate(old):
        if lived_long:
            expected = BACKOFF_FIRST
        pause = life.died(-9, YOUNG + 1 if lived_long else 0.1)
        assert pause == expected
        assert life.restarts == number + 1
        expected = min(BACKOFF_MAX, expected * 2)
