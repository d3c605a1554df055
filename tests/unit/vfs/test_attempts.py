"""Attempts to bring a key up to date, one after the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import StoreUnavailable
from tests.unit.vfs.calls import Gate, begin, create
from tests.unit.vfs.harness import Volume


@pytest.mark.parametrize("turns", range(4))
def test_an_attempt_that_follows_a_failed_deletion_at_once_is_known(
    tmp_path: Path, turns: int
) -> None:
    """The end of the deletion, noted some turns of the loop later, is not that of the attempt."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, store = volume.fs, volume.store
    asked, fail = asyncio.Event(), asyncio.Event()

    async def delete(key: str) -> None:
        asked.set()
        await fail.wait()
        raise StoreUnavailable("the store is away")

    async def run() -> None:
        await create(volume, b"f", b"old")
        original, store.delete = store.delete, delete  # type: ignore[method-assign]
        await fs.unlink(volume.request(), ROOT, b"f")
        await asked.wait()
        store.delete = original  # type: ignore[method-assign]
        ino, opened = await begin(volume, b"f", b"new")
        sending = Gate(volume, "put")
        fail.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        flush = asyncio.create_task(fs.flush(volume.request(), ino, opened.fh))
        await sending.reached.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert fs.content.reconciler.is_active("f")
        sending.open.set()
        await flush
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    assert volume.objects() == {"f": b"new"}
    volume.stop()
