"""The engines, for tests of what both can do."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["native", "pyfuse3"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    if request.param == "pyfuse3":
        pytest.importorskip("pyfuse3")
    name: str = request.param
    return name
