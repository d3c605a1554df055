"""The catalog cannot be written, for its disk is full."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import again
from csi_slayer.errors import CacheFull
from tests.unit.vfs.calls import begin, read
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob


async def full(*_args: Any, **_values: Any) -> None:
    raise CacheFull("the disk of the catalog is full")


def test_an_unlinked_file_is_forgotten_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "LEFT", 2)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    def staged() -> int:
        return len(list(volume.fs.content.staging.list()))

    async def run() -> None:
        fs = volume.fs
        opened = [await begin(volume, b"%d" % number, b"x" * 1000) for number in range(3)]
        for number in range(3):
            await fs.unlink(volume.request(), ROOT, b"%d" % number)
        assert staged() == 3
        with monkeypatch.context() as patch:
            patch.setattr(volume.catalog, "drop_orphan", full)
            for ino, handle in opened:
                await fs.release(volume.request(), ino, handle.fh)
            assert staged() == 0
            await asyncio.sleep(60)
            assert volume.inodes() == 4
            reopened = fs.opened.use(opened[0][0])
        await asyncio.sleep(60)
        assert volume.inodes() == 3, "one is open again, and one was too many"
        await fs.opened.let_go(reopened)
        await asyncio.sleep(60)
        assert volume.inodes() == 2

    volume.run(run())
    volume.die()
    volume.start(taken_over=True)
    assert volume.inodes() == 1
    volume.stop()


def test_a_staged_copy_that_the_store_has_is_let_go_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody comes again who would, and what is staged is not evicted."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        opened = [await begin(volume, b"%d" % size, b"x" * size) for size in (1000, 3 << 20)]
        for ino, handle in opened:
            await fs.flush(volume.request(), ino, handle.fh)
        with monkeypatch.context() as patch:
            patch.setattr(volume.catalog, "update", full)
            for ino, handle in opened:
                await fs.release(volume.request(), ino, handle.fh)
            await asyncio.sleep(60)
            assert len(list(fs.content.staging.list())) == 2
        await asyncio.sleep(60)
        assert list(fs.content.staging.list()) == []

    volume.run(run())
    volume.stop()


def test_an_unmounted_volume_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that is still open is closed, and uploads go on."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        for size in (1000, 3 << 20):
            ino, handle = await begin(volume, b"%d" % size, b"x" * size)
            await fs.flush(volume.request(), ino, handle.fh)
        with monkeypatch.context() as patch:
            patch.setattr(volume.catalog, "update", full)
            await fs.let_go()
        assert len(fs.handles) == len(fs.opened) == 0

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("theirs", [b"theirs", None], ids=["changed", "made in its place"])
def test_a_lost_race_that_cannot_be_noted_is_lost_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bytes | None, large: bool
) -> None:
    """Until it is noted the bytes are the file's, and then they are kept once."""
    volume = Volume(tmp_path, passthrough=False, ttl=0, durability="fsync", hydrate_max=0)
    fs, old = volume.fs, bytes(3 << 20) if large else b"0123456789"
    if theirs is not None:
        volume.bucket.objects["f"] = Blob(old, '"one"', 10**18, {})

    async def run() -> None:
        if theirs is not None:
            ino = (await fs.lookup(volume.request(), ROOT, b"f")).attr.ino
            handle = await fs.open(volume.request(), ino, os.O_RDWR)
            await fs.write(volume.request(), ino, handle.fh, 0, memoryview(b"mine"))
        else:
            ino, handle = await begin(volume, b"f", b"mine" + old[4:])
        volume.bucket.objects["f"] = Blob(b"theirs", '"two"', 10**18, {})
        with monkeypatch.context() as patch:
            patch.setattr(volume.catalog, "stored", full)
            await fs.release(volume.request(), ino, handle.fh)
            await asyncio.sleep(60)
            if theirs is None:
                assert await read(volume, ino) == b"mine" + old[4:]
        assert await fs.drain(DRAIN) == 0
        await asyncio.sleep(60)
        ino = (await fs.lookup(volume.request(), ROOT, b"f")).attr.ino
        assert await read(volume, ino) == b"theirs"

    volume.run(run())
    (kept,) = fs.content.conflicts.list()
    assert kept.read_bytes()[:4] == b"mine"
    assert list(fs.content.staging.list()) == []
    assert len(list(kept.parent.glob("*.json"))) == 1
    assert bool(list(kept.parent.glob("*.blocks"))) == (large and theirs is not None)
    volume.stop()
