"""Volumes mounted for the tests of this directory, with all kernel capabilities and with none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import TestMount

MakeMount = Callable[..., TestMount]

PLACES = 100
"""Directories that a shared mount has for its tests."""


@dataclass(frozen=True)
class Place:
    """An empty directory of a volume that other tests use too, and the objects below it."""

    root: Path
    objects: Path
    volume: TestMount
    capabilities: frozenset[str]
    """Names of the kernel capabilities that the volume uses."""

    def wait_idle(self) -> None:
        self.volume.wait_idle()


MODES: dict[str, list[str]] = {
    "all": [],
    "none": ["fuse.disable=all"],
    "libfuse": ["fuse.engine=pyfuse3"],
}
"""Mount options of each way to speak to the kernel."""


@pytest.fixture(scope="module", params=["all", "none"])
def capabilities(request: pytest.FixtureRequest) -> list[str]:
    """Mount options that leave all capabilities on, or switch each off as on an older kernel. A
    module may also ask for the engine on libfuse."""
    if request.param == "libfuse":
        pytest.importorskip("pyfuse3")
    return MODES[request.param]


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


@pytest.fixture(scope="module")
def places(
    capabilities: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Iterator[Place]]:
    """Directories of one volume, each to be used by one test. They are in the store before the
    mount, so the volume does not know what is in them until a test looks."""
    base = tmp_path_factory.mktemp("shared")
    names = [f"place{number}" for number in range(PLACES)]
    for name in names:
        (base / "objects" / name).mkdir(parents=True)
    volume = TestMount(f"file://{base}/objects", base, options=capabilities).mount()
    found = frozenset(volume.status()["capabilities"])
    yield (Place(volume.root / name, base / "objects" / name, volume, found) for name in names)
    volume.close()


@pytest.fixture
def place(places: Iterator[Place]) -> Place:
    """A directory of a volume shared by a module's tests: faster than a mount for each."""
    return next(places)
