"""Volumes mounted for the tests of this directory, with all kernel capabilities and with none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import TestMount

MakeMount = Callable[..., TestMount]


@pytest.fixture(params=["all", "none"])
def capabilities(request: pytest.FixtureRequest) -> list[str]:
    """Mount options that leave all capabilities on, or switch each off as on an older kernel."""
    return [] if request.param == "all" else ["fuse.disable=all"]


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Make any number of mounts; they are ended after the test."""
    made: list[TestMount] = []

    def make(url: str | None = None, **kwargs: Any) -> TestMount:
        if url is None:
            objects = tmp_path / "objects"
            objects.mkdir(exist_ok=True)
            url = f"file://{objects}"
        mount = TestMount(url, tmp_path, **kwargs)
        made.append(mount)
        return mount

    yield make
    for mount in made:
        mount.close()


@pytest.fixture
def volume(make_mount: MakeMount, capabilities: list[str]) -> TestMount:
    """A read-write volume on a local directory of objects."""
    return make_mount(options=capabilities).mount()


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """The directory of objects below ``volume``."""
    path = tmp_path / "objects"
    path.mkdir(exist_ok=True)
    return path
