"""Places for workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.worker.workers import Place
from tests.support.oidc import WebIdentity, web_identity


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebIdentity]:
    """MinIO that exchanges the tokens of a provider."""
    with web_identity(tmp_path_factory.mktemp("web")) as found:
        yield found


MakePlace = Callable[..., Place]


@pytest.fixture
def make_place(tmp_path: Path) -> Iterator[MakePlace]:
    """Make a place by configuration keys and ``labels``; all are cleared after the test."""
    made: list[Place] = []

    def make(
        values: dict[str, object] | None = None,
        labels: dict[str, str] | None = None,
        governs: bool = True,
    ) -> Place:
        base = tmp_path / f"place{len(made)}"
        base.mkdir()
        (base / "objects").mkdir()
        values = {"store.url": f"file://{base}/objects", **(values or {})}
        place = Place(base, values, labels or {}, governs)
        made.append(place)
        return place

    yield make
    for place in made:
        place.clear()
