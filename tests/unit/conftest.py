"""Commands and workers' parts run in the tests' own process here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may raise a hard limit again, and a later test has to see core dumps forbidden."""
    monkeypatch.setattr("csi_slayer.cli.main.forbid_core_dumps", lambda: None)


@pytest.fixture(autouse=True)
def steady_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a write takes on this machine, the next is no thread's."""
    monkeypatch.setattr("csi_slayer.content.pace.SLOW", float("inf"))
