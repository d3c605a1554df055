"""Names that become something else, on stores that cannot hold an object and others below it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mount.s3volumes import s3_volume
from tests.support.mounts import TestMount
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Stored:
    """A volume and a look at what is in its bucket."""

    def __init__(self, server: S3Server, base: Path) -> None:
        self._server = server
        self._bucket = server.create_bucket()
        self.volume: TestMount = s3_volume(server, self._bucket, base).mount()

    def files(self) -> dict[str, bytes]:
        """The objects once nothing is pending."""
        self.volume.wait_idle()
        return self.files_now()

    def files_now(self) -> dict[str, bytes]:
        """The objects but for the marks of directories."""
        admin = self._server.admin
        return {
            key: admin.get(self._bucket, key)
            for key in admin.keys(self._bucket)
            if not key.endswith("/")
        }


@pytest.fixture(scope="module", params=["versitygw", "minio"])
def stored(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stored]:
    server: S3Server = request.getfixturevalue(request.param)
    stored = Stored(server, tmp_path_factory.mktemp("names"))
    yield stored
    stored.volume.close()


@pytest.fixture
def root(stored: Stored) -> Iterator[Path]:
    yield stored.volume.root
    for entry in stored.volume.root.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def test_a_file_and_a_directory_swap_their_names(stored: Stored, root: Path) -> None:
    (root / "a").write_bytes(b"file")
    (root / "d").mkdir()
    (root / "d" / "x").write_bytes(b"inside")
    assert stored.files() == {"a": b"file", "d/x": b"inside"}
    (root / "a").rename(root / "t")
    (root / "d").rename(root / "a")
    (root / "t").rename(root / "d")
    assert stored.files() == {"a/x": b"inside", "d": b"file"}


def test_a_file_moves_into_a_directory_of_its_name_and_back(stored: Stored, root: Path) -> None:
    (root / "a").write_bytes(b"one")
    (root / "a").rename(root / "t")
    (root / "a").mkdir()
    (root / "t").rename(root / "a" / "x")
    assert stored.files() == {"a/x": b"one"}
    (root / "a" / "x").rename(root / "t")
    (root / "a").rmdir()
    (root / "t").rename(root / "a")
    assert stored.files() == {"a": b"one"}


def test_a_file_is_stored_when_it_is_closed_where_a_tree_was(stored: Stored, root: Path) -> None:
    for number in range(300):
        path = root / "d" / f"{number % 7}"
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number}").write_bytes(b"old")
    assert len(stored.files()) == 300
    shutil.rmtree(root / "d")
    (root / "d").write_bytes(b"new")
    assert stored.files() == {"d": b"new"}


def test_an_open_file_without_a_name_is_not_in_the_way(stored: Stored, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d" / "x").write_bytes(b"kept by its handle")
    assert stored.files() == {"d/x": b"kept by its handle"}
    with (root / "d" / "x").open("rb") as file:
        shutil.rmtree(root / "d")
        fd = os.open(root / "d", os.O_WRONLY | os.O_CREAT, 0o644)
        os.write(fd, b"new")
        os.close(fd)
        assert file.read() == b"kept by its handle"
        assert stored.files_now()["d"] == b"new"
    assert stored.files() == {"d": b"new"}
