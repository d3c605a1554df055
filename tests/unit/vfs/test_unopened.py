"""Reading without an open, as the kernel does on volumes where it need not ask."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.vfs import fileops
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def test_more_readers_than_files_are_kept_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its own file's bytes, whatever is closed meanwhile, and nothing stays open."""
    monkeypatch.setattr(fileops, "UNOPENED_KEPT", 3)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    sizes = [10, 5_000, 200_000]
    bodies = {f"f{n}": os.urandom(sizes[n % 3]) for n in range(30)}
    for key, body in bodies.items():
        volume.bucket.objects[key] = Blob(body, f'"{key}"', 10**18, {})

    async def read(key: str) -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, key.encode())
        assert entry.attr is not None
        for offset in (0, len(bodies[key]) // 2):
            result = await fs.read(volume.request(), entry.attr.ino, 0, offset, 1 << 20)
            assert as_bytes(result) == bodies[key][offset:]

    async def crowd() -> None:
        await asyncio.gather(*(read(key) for key in [*bodies, *bodies]))

    for _ in range(3):
        volume.run(crowd())
        assert len(volume.fs.opened) <= 3
    before = len(os.listdir("/proc/self/fd"))
    volume.run(crowd())
    assert len(os.listdir("/proc/self/fd")) == before
    volume.stop()
