"""Node services on real mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import TestNode, node_at

CAPABILITIES: dict[str, list[str]] = {
    "passthrough": [],
    # Requests in flight can only be handed over by kernels that resend (6.9 and later).
    "served": ["passthrough", "splice", "readdirplus", "parallel_dirops"],
}
"""Kernel capabilities to switch off: none, or those that let the kernel serve data itself."""


@pytest.fixture
def tmp_path(short_directory: Path) -> Path:
    """One that sockets can be in."""
    return short_directory


@pytest.fixture(params=list(CAPABILITIES))
def disabled(request: pytest.FixtureRequest) -> list[str]:
    return CAPABILITIES[request.param]


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """The directory of objects of the volume at ``url``."""
    path = tmp_path / "objects"
    path.mkdir()
    return path


@pytest.fixture
def url(objects: Path) -> str:
    return f"file://{objects}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TestNode]:
    """A node service with a keeper, both running."""
    with node_at(tmp_path) as started:
        yield started
