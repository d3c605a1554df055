"""Parts that are sent while a file grows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, Catalog, Defaults
from csi_slayer.content import growth
from csi_slayer.content.growth import Growth
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.staged import StagedFile
from csi_slayer.content.upload import Uploader
from csi_slayer.errors import CacheFull, StoreUnavailable
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions
from tests.unit.vfs.harness import Volume

PART = 64 << 10


def test_what_was_sent_as_a_whole_is_not_sent_ahead(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, part_size=PART)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.write(ino, opened, 0, b"1")
    volume.turn(1000)  # it is seen to be small
    volume.write(ino, opened, 0, bytes(5 * PART))
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    assert volume.objects() == {"f": bytes(5 * PART)}
    volume.turn(1000)
    assert not volume.bucket.uploads, "it is seen to have grown only after the whole was sent"
    volume.run(fs.release(volume.request(), ino, opened.fh))
    volume.turn(1000)
    assert not volume.bucket.uploads
    volume.stop()


class Looked:
    """A catalog and an uploader of which what is looked at fails as ``error`` says."""

    part_size = PART

    def __init__(self) -> None:
        self.error: Exception = CacheFull("the disk of the catalog is full")
        self.found: list[int] = []
        self.forgotten: list[int] = []
        self.ahead: list[int] = []

    async def find(self, ino: int) -> None:
        self.found.append(ino)
        raise self.error

    async def path(self, ino: int) -> None:
        if ino == 1:
            raise self.error

    def sent_ahead(self) -> list[int]:
        return self.ahead

    async def forget(self, ino: int) -> None:
        self.forgotten.append(ino)


class Watched:
    """Files that grow, and the task that watches them."""

    def __init__(self, looked: Any, directory: Path) -> None:
        self._opened, self._directory = OpenInodes(), directory
        nothing: Any = None
        self.task = asyncio.create_task(
            Growth(looked, self._opened, nothing, looked, *[nothing] * 4).watch()
        )

    async def grow(self, ino: int) -> None:
        """It is seen as empty first, if it is new."""
        record = self._opened.get(ino)
        if record is None:
            record = self._opened.use(ino)
            record.writers = 1
            path = self._directory / str(ino)
            path.touch()
            record.file = StagedFile("stage", str(path), os.open(path, os.O_RDWR))
            await self.turn()
        assert isinstance(record.file, StagedFile)
        os.ftruncate(record.file.fd, record.file.size + 2 * PART)
        await self.turn()

    async def turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        for record in self._opened:
            if record.file is not None:
                await record.file.close()
        assert not self.task.done()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def watched(looked: Looked, directory: Path) -> AsyncIterator[Watched]:
    watch = Watched(looked, directory)
    try:
        yield watch
    finally:
        await watch.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERIOD", "IDLE"):
        monkeypatch.setattr(growth, name, 0.0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("error", [CacheFull("full"), OSError(5, "EIO"), StoreUnavailable("away")])
def test_a_file_that_cannot_be_looked_at_rests_and_others_are_sent(
    tmp_path: Path, error: Exception
) -> None:
    async def run() -> None:
        looked = Looked()
        looked.error = error
        async with watched(looked, tmp_path) as watch:
            await watch.grow(7)
            assert looked.found == [7]
            await watch.grow(8)
            await watch.grow(7)
            await watch.grow(7)
            assert looked.found == [7, 8]

    asyncio.run(run())


@pytest.mark.usefixtures("at_once")
def test_it_is_sent_again_when_it_has_rested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "REST", 0.0)

    async def run() -> None:
        looked = Looked()
        async with watched(looked, tmp_path) as watch:
            for count in range(1, 4):
                await watch.grow(7)
                assert looked.found == [7] * count

    asyncio.run(run())


@pytest.mark.usefixtures("at_once")
def test_what_nobody_wants_is_forgotten_although_another_cannot_be_looked_at(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        looked = Looked()
        looked.ahead = [1, 2]
        async with watched(looked, tmp_path) as watch:
            await watch.turn()
            assert 2 in looked.forgotten and 1 not in looked.forgotten

    asyncio.run(run())


def test_an_upload_of_which_the_catalog_cannot_note_anything_is_not_left(tmp_path: Path) -> None:
    """Nobody would ever abort it."""
    (tmp_path / "objects").mkdir()
    (tmp_path / "stage").touch()

    async def run() -> None:
        store = await open_store(f"file://{tmp_path}/objects", StoreOptions())
        catalog = Catalog(tmp_path / "catalog.db", Defaults(0, 0, 0o644, 0o755))
        file = StagedFile("stage", "stage", os.open(tmp_path / "stage", os.O_RDWR))
        uploader = Uploader(store, catalog, OpenInodes(), 1 << 20)
        os.ftruncate(file.fd, 3 * uploader.part_size)

        async def full(*_values: object) -> None:
            raise CacheFull("the disk of the catalog is full")

        for name in ("upload_began", "upload_ended"):
            setattr(catalog, name, full)
        with pytest.raises(CacheFull):
            await uploader.send_ahead(7, "key", file, {})
        assert await store.list_multipart("") == []
        assert uploader.sent_ahead() == []
        await file.close()
        catalog.close()
        await store.close()

    asyncio.run(run())
