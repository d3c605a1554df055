"""What fsync of a directory waits for."""

from __future__ import annotations

import stat
from pathlib import Path

from csi_slayer.catalog import ROOT
from tests.unit.vfs.harness import Volume

MANY = 1100


def test_it_waits_for_what_is_in_it_however_much_is_pending_below(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def mkdir(parent: int, name: bytes) -> int:
        entry = await fs.mkdir(volume.request(), parent, name, 0o755)
        assert entry.attr is not None
        return entry.attr.ino

    async def scenario() -> None:
        top = await mkdir(ROOT, b"top")
        below = await mkdir(top, b"below")
        for number in range(MANY):
            name = b"f%d" % number
            await fs.mknod(volume.request(), below, name, stat.S_IFREG | 0o644, 0)
        await fs.mknod(volume.request(), top, b"last", stat.S_IFREG | 0o644, 0)
        await fs.fsyncdir(volume.request(), top, 0, False)
        assert {"top/", "top/below/", "top/last"} <= set(volume.bucket.objects)

    volume.run(scenario())
    volume.stop()


def test_it_waits_for_all_that_is_in_it(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        for number in range(MANY):
            await fs.mknod(volume.request(), ROOT, b"%d" % number, stat.S_IFREG | 0o644, 0)
        await fs.fsyncdir(volume.request(), ROOT, 0, False)
        assert len(volume.bucket.objects) == MANY

    volume.run(scenario())
    volume.stop()
