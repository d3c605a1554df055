"""The last look at a file that may have been written to past the page cache after it was sent."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.checksums import Checksums
from csi_slayer.errors import CatalogError
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.test_disowned import replace
from tests.unit.vfs.test_writes_under_way import LateWrite


def test_it_is_taken_though_the_catalog_refuses_to_note_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    write = LateWrite(volume)
    write.flush()
    write.come()

    async def refuse(*_args: Any, **_values: Any) -> None:
        monkeypatch.undo()
        raise CatalogError("database or disk is full")

    monkeypatch.setattr(volume.catalog, "update", refuse)
    write.release()
    volume.run(asyncio.sleep(60))
    assert volume.objects()["f"] == b"later"
    volume.stop()


def test_a_worker_that_dies_before_it_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def die(_record: object) -> None:
        raise Killed

    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    write = LateWrite(volume)
    write.flush()
    write.come()
    with monkeypatch.context() as patch:
        patch.setattr(volume.fs, "_look_again", die)
        with pytest.raises(Killed):
            write.release()
    volume.die()
    volume.start(taken_over=True)
    write.release()  # the kernel sends it again
    volume.run(asyncio.sleep(60))
    assert volume.objects()["f"] == b"later"
    volume.stop()


@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_DIRECT])
def test_after_a_take_over_what_was_not_written_is_not_sent(
    tmp_path: Path, flags: int, other: bool
) -> None:
    """Nor is it a conflict with what another node has stored."""
    volume = Volume(tmp_path, passthrough=True, ttl=0)
    replace(volume, "f", b"x" * 5000)
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"f"))
    assert entry.attr is not None
    ino = entry.attr.ino
    opened = volume.run(volume.fs.open(volume.request(), ino, flags))
    assert volume.is_past_us(opened)
    volume.die()
    volume.start(taken_over=True)
    volume.turn(50)
    if other:
        replace(volume, "f", b"theirs")
    etag = volume.bucket.objects["f"].etag
    volume.run(volume.fs.release(volume.request(), ino, opened.fh))
    volume.run(asyncio.sleep(60))
    assert volume.bucket.objects["f"].etag == etag
    assert volume.events.conflicts == 0
    volume.stop()


def test_reading_for_longer_than_a_close_waits_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600, part_size=256 << 10)
    write = LateWrite(volume)
    os.pwrite(write.fd, b"x" * (2 << 20), 0)
    of_range = Checksums.of_range

    async def slow(it: Checksums, fd: int, offset: int, length: int) -> int:
        await asyncio.sleep(length / (2 << 20) * 130)  # 130 s for all of it
        return await of_range(it, fd, offset, length)

    monkeypatch.setattr(Checksums, "of_range", slow)
    write.flush()
    assert volume.objects()["f"] == b"x" * (2 << 20)
    write.release()
    volume.stop()
