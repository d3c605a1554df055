"""What is said of a volume's health."""

from __future__ import annotations

from typing import Any

import pytest

from csi_slayer.node.condition import judge
from csi_slayer.node.running import State

WELL: dict[str, Any] = {
    "failing": [], "pending_uploads": 0, "oldest_pending": 5.0, "conflicts": 0,
    "store": {"answers": True, "last_error": "an old one"},
}  # fmt: skip


def test_all_is_well() -> None:
    assert not judge(State.SERVING, 3, WELL).abnormal
    assert not judge(State.SERVING, 0, {**WELL, "pending_uploads": 9}).abnormal


@pytest.mark.parametrize(
    ("state", "status", "said"),
    [
        (State.RESTARTING, None, "restart 3"),
        (State.SERVING, None, "does not answer"),
        (State.SERVING, {**WELL, "oldest_pending": 1200.0}, "20 minutes"),
        (
            State.SERVING,
            {**WELL, "store": {"answers": False, "last_error": "refused"}},
            r"store does not answer (refused)",
        ),
        (
            State.SERVING,
            {**WELL, "pending_uploads": 2, "failing": [{"key": "k", "error": "denied"}]},
            "k: denied",
        ),
        (State.SERVING, {**WELL, "conflicts": 4}, "4 files were changed"),
    ],
)
def test_what_is_wrong_is_said(state: State, status: dict[str, Any] | None, said: str) -> None:
    condition = judge(state, 3, status)
    assert condition.abnormal
    assert said in condition.message


def test_a_worker_that_is_started_after_an_upgrade_is_no_reason_to_worry() -> None:
    condition = judge(State.STARTING, 0, None)
    assert not condition.abnormal
    assert "requests wait" in condition.message
