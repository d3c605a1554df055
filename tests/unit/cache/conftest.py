"""A cache in a temporary directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.cache import Cache
from tests.unit.cache.helpers import CAPACITY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache(root: Path) -> Iterator[Cache]:
    made = Cache(root, CAPACITY)
    yield made
    made.close()
    assert made.shared.opened == {}, "a test left a segment open"


@pytest.fixture
def other(cache: Cache, root: Path) -> Iterator[Cache]:
    """The same cache as another process would have it."""
    made = Cache(root, CAPACITY)
    yield made
    made.close()
