"""Whether a volume is well, from what its worker says and from how the worker itself is."""

from __future__ import annotations

from typing import Any

from csi_slayer.node.requests import Condition
from csi_slayer.node.running import State

WELL = Condition(False, "the volume is well")

LONG = 900.0
"""Seconds for which written data may wait for its upload before somebody should look."""

SHOWN = 3
"""Files that a message names."""


def judge(state: State, restarts: int, status: dict[str, Any] | None) -> Condition:
    """``status``: the worker's answer, None if there was none."""
    if state is State.STARTING:
        return Condition(False, "the volume's worker is being started: requests wait for it")
    if state is State.RESTARTING:
        return Condition(
            True,
            f"the volume's worker is being started again (restart {restarts}): requests wait for"
            " it; the node's log says why it ended",
        )
    if status is None:
        return Condition(
            True, "the volume's worker does not answer: see the node's log if this stays so"
        )
    problems = []
    store = status.get("store") or {}
    if store.get("answers") is False:
        problems.append(
            f"the store does not answer ({store.get('last_error')}): what is on this node is"
            " served, what is written here waits"
        )
    oldest = status.get("oldest_pending")
    if oldest is not None and oldest > LONG:
        problems.append(f"written data has waited {oldest / 60:.0f} minutes for its upload")
    failing = status.get("failing") or []
    if failing:
        named = "; ".join(f"{item['key']}: {item['error']}" for item in failing[:SHOWN])
        problems.append(
            f"{status['pending_uploads']} files are not in the store yet, and fail: {named}."
            " They are tried again until it works"
        )
    conflicts = status.get("conflicts", 0)
    if conflicts:
        problems.append(
            f"{conflicts} files were changed in the store by somebody else while they were written"
            " here: what was written is kept in the node's cache directory, below conflicts"
        )
    return Condition(True, ". ".join(problems)) if problems else WELL
