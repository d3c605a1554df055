"""What a worker finds that an earlier one has left."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from tests.unit.vfs.calls import LARGE, Gate, create
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import MemoryStore

FILES = (b"a", b"b", b"c")


def test_a_store_that_does_not_answer_holds_a_start_up_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each file whose upload may have succeeded."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0, part_size=256 << 10)
    big = LARGE * 3

    async def change(name: bytes) -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, name)
        assert entry.attr is not None
        opened = await fs.open(volume.request(), entry.attr.ino, os.O_RDWR)
        await fs.write(volume.request(), entry.attr.ino, opened.fh, 0, memoryview(b"new"))
        await fs.flush(volume.request(), entry.attr.ino, opened.fh)

    async def leave() -> None:
        for name in FILES:
            await create(volume, name, big)
        assert await volume.fs.drain(DRAIN) == 0
        for path in (tmp_path / "cache").rglob("*"):  # nothing of them is cached
            if path.is_file() and path.stat().st_size >= len(big):
                path.unlink()
        gate = Gate(volume, "complete_multipart")
        for name in FILES:
            volume.fs.spawn(change(name))
        await gate.reached.wait()
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert len(await volume.catalog.pendings("", 99)) == len(FILES)

    volume.run(leave())
    volume.die()
    waiting, most, head = 0, 0, MemoryStore.head

    async def never(store: MemoryStore, key: str) -> Any:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        try:
            await asyncio.Event().wait()
        finally:
            waiting -= 1

    monkeypatch.setattr(MemoryStore, "head", never)
    volume.start(taken_over=False)
    assert most == len(FILES)
    monkeypatch.setattr(MemoryStore, "head", head)
    volume.stop()
    assert volume.objects() == {name.decode(): b"new" + big[3:] for name in FILES}


def test_what_a_dead_worker_may_have_stored_is_asked_for_side_by_side(tmp_path: Path) -> None:
    """Of files that are removed: one by one, for thousands of them it would take minutes."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    waiting, most, head = 0, 0, volume.store.head

    async def counted(key: str) -> Any:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        try:
            await asyncio.sleep(1)
            return await head(key)
        finally:
            waiting -= 1

    async def remove() -> None:
        fs = volume.fs
        for name in FILES:
            await fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)
            await fs.unlink(volume.request(), ROOT, name)
        await volume.catalog.inherit_pending()
        assert await fs.drain(DRAIN) == 0

    volume.store.head = counted  # type: ignore[method-assign]
    volume.run(remove())
    assert most == len(FILES)
    volume.stop()
