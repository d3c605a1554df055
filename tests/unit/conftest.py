"""Commands run in the tests' own process here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody may raise a hard limit again, and a later test has to see core dumps forbidden."""
    monkeypatch.setattr("csi_slayer.cli.main.forbid_core_dumps", lambda: None)
