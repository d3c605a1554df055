"""The power goes before a rename was carried out."""

from __future__ import annotations

import asyncio
import os

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.staged import StagedFile
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.calls import Gate
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.test_power_loss import lose_power, opened, release, volume

__all__ = ["volume"]


def test_of_a_file_that_is_written_anew_the_old_name_goes(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which version it had is not known any more."""
    fs = volume.fs
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 5, b"changed")
    release(volume, ino, handle)
    volume.run(fs.rename(volume.request(), ROOT, b"f", ROOT, b"g", 0))
    lose_power(volume, monkeypatch)

    async def write_anew() -> Opened:
        gate = Gate(volume, "copy")
        await gate.reached.wait()
        handle = await volume.fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
        await volume.fs.write(volume.request(), ino, handle.fh, 0, memoryview(b"anew"))
        gate.open.set()
        await asyncio.sleep(1)
        return handle

    handle = volume.run(write_anew())
    record = volume.fs.opened.get(ino)
    assert record is not None and isinstance(record.file, StagedFile)
    release(volume, ino, handle)
    volume.run(volume.fs.drain(5))
    objects = volume.objects()
    assert set(objects) == {"g", "large"} and objects["g"] == b"anew"
