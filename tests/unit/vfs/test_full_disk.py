"""The catalog cannot be written, for its disk is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import orphans
from csi_slayer.errors import CacheFull
from tests.unit.vfs.calls import begin
from tests.unit.vfs.harness import Volume


def test_an_unlinked_file_is_forgotten_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "LEFT", 2)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def full(ino: int) -> None:
        raise CacheFull("the disk of the catalog is full")

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
            assert await fs.catalog.count() == 4
            again = fs.opened.use(opened[0][0])
        await asyncio.sleep(60)
        assert await fs.catalog.count() == 3, "one is open again, and one was too many"
        await fs.opened.let_go(again)
        await asyncio.sleep(60)
        assert await fs.catalog.count() == 2

    volume.run(run())
    volume.die()
    volume.start(taken_over=True)
    assert volume.run(volume.catalog.count()) == 1
    volume.stop()
