"""When an operation is repeated, how long it is waited, and when it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import AccessDenied, ObjectNotFound, StoreIntegrityError, StoreUnavailable
from csi_slayer.store.retry import LONGEST_RETRY_AFTER, RetryPolicy, Transient


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def read(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def _policy(clock: Clock, jitter: float = 1.0, **limits: float) -> RetryPolicy:
    given_limits: dict[str, float] = {"deadline": 60.0, "base": 0.1, "cap": 5.0} | limits
    return RetryPolicy(
        deadline=given_limits["deadline"],
        attempts=int(given_limits.get("attempts", 100)),
        base=given_limits["base"],
        cap=given_limits["cap"],
        clock=clock.read,
        sleep=clock.sleep,
        jitter=lambda: jitter,
    )


def _run(policy: RetryPolicy, failures: Iterator[Exception | None]) -> str:
    async def attempt() -> str:
        failure = next(failures)
        if failure is not None:
            raise failure
        return "done"

    return asyncio.run(policy.run(attempt, "what"))


def test_success_is_not_waited_for() -> None:
    clock = Clock()
    assert _run(_policy(clock), iter([None])) == "done"
    assert clock.pauses == []


def test_pauses_double_up_to_the_cap() -> None:
    clock = Clock()
    failures = [Transient("x")] * 8
    assert _run(_policy(clock), iter([*failures, None])) == "done"
    assert clock.pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])


def test_final_errors_are_not_repeated() -> None:
    clock = Clock()
    with pytest.raises(ObjectNotFound):
        _run(_policy(clock), iter([Transient("x"), ObjectNotFound("gone"), None]))
    assert len(clock.pauses) == 1


def test_the_deadline_ends_it() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailable, match=r"^what: broken \(gave up after \d+ attempts in"):
        _run(_policy(clock, deadline=10.0), iter([Transient("broken")] * 1000))
    assert clock.now - 1000.0 < 10.0


def test_the_number_of_attempts_ends_it() -> None:
    clock = Clock()
    with pytest.raises(StoreUnavailable, match="after 3 attempts"):
        _run(_policy(clock, attempts=3), iter([Transient("x")] * 9))


def test_a_failure_may_have_its_own_limit_and_outcome() -> None:
    clock = Clock()
    wrong = Transient("wrong", limit=2, outcome=StoreIntegrityError)
    with pytest.raises(StoreIntegrityError, match="wrong"):
        _run(_policy(clock), iter([wrong] * 9))
    assert len(clock.pauses) == 1


def test_an_outage_takes_none_of_the_attempts_that_a_failure_is_given() -> None:
    """A session that ended while the store was away is renewed, not reported."""
    clock = Clock()
    ended = Transient("ended", immediate=True, limit=2, outcome=AccessDenied)
    assert _run(_policy(clock), iter([*[Transient("away")] * 5, ended, None])) == "done"
    with pytest.raises(AccessDenied, match="ended"):
        _run(_policy(clock), iter([Transient("away"), ended, Transient("away"), ended, None]))


def test_what_is_done_in_another_way_after_an_outage_is_done_at_once() -> None:
    """A store that came back just before the deadline: the new session was not tried."""
    clock = Clock()
    ended = Transient("ended", immediate=True, limit=2, kind="session", outcome=AccessDenied)
    away = [Transient("away")] * 6
    assert _run(_policy(clock, deadline=12.0), iter([*away, ended, None])) == "done"
    assert clock.pauses[-2:] == [5.0, 0.0]
    with pytest.raises(AccessDenied, match="ended"):
        _run(_policy(clock, deadline=12.0), iter([*away, ended, ended, None]))


def test_what_one_failure_has_had_mended_takes_no_attempt_of_another() -> None:
    """A machine that was suspended has a wrong clock and a session that has ended: with the one
    set right the other was reported."""
    clock = Clock()
    skewed = Transient("skewed", immediate=True, limit=2, kind="clock", outcome=AccessDenied)
    ended = Transient("ended", immediate=True, limit=2, kind="session", outcome=AccessDenied)
    wrong = Transient("wrong", limit=4, outcome=StoreIntegrityError)
    assert _run(_policy(clock), iter([wrong, wrong, skewed, ended, None])) == "done"
    with pytest.raises(AccessDenied, match="skewed"):
        _run(_policy(clock), iter([skewed, ended, skewed, None]))


def test_progress_begins_anew() -> None:
    clock = Clock()
    steps: list[Exception | None] = [Transient("x", progress=True)] * 50
    assert _run(_policy(clock, deadline=1.0, attempts=2), iter([*steps, None])) == "done"


def test_a_stale_connection_is_replaced_at_once() -> None:
    clock = Clock()
    stale = Transient("stale", immediate=True)
    assert _run(_policy(clock), iter([stale, stale, None])) == "done"
    assert clock.pauses == pytest.approx([0.0, 0.4])


def test_the_server_may_ask_for_a_pause_of_bounded_length() -> None:
    clock = Clock()
    failures = [Transient("x", retry_after=3.0), Transient("x", retry_after=3600.0), None]
    assert _run(_policy(clock), iter(failures)) == "done"
    assert clock.pauses == [3.0, LONGEST_RETRY_AFTER]


@given(st.floats(0.0, 1.0), st.integers(1, 40))
def test_jitter_only_shortens(jitter: float, count: int) -> None:
    full, some = Clock(), Clock()
    for clock, value in ((full, 1.0), (some, jitter)):
        policy = _policy(clock, value, deadline=1e9)
        assert _run(policy, iter([*[Transient("x")] * count, None])) == "done"
    assert all(0 <= less <= more for less, more in zip(some.pauses, full.pauses, strict=True))
