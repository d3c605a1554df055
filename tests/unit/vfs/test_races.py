"""Who loses a race for a key: what was written here is kept, and the store's version is seen."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import rest
from csi_slayer.content.staged import StagedFile
from csi_slayer.errors import PreconditionFailed
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import Gate, begin, create
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore

HOUR = 3600.0


def test_a_lost_race_is_decided_as_soon_as_the_file_is_closed(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, opened, 0, b"ours")
    volume.run(MemoryStore(volume.bucket).put("f", b"theirs"))
    with pytest.raises(PreconditionFailed):
        volume.run(fs.flush(volume.request(), entry.attr.ino, opened.fh))
    assert volume.events.conflicts == 0, "it is still open"
    volume.run(fs.release(volume.request(), entry.attr.ino, opened.fh))
    volume.turn(30)
    assert volume.events.conflicts == 1
    (kept,) = (p for p in (tmp_path / "cache" / "conflicts").rglob("*-f-*") if not p.suffix)
    assert kept.read_bytes() == b"ours"
    again = volume.run(fs.open(volume.request(), entry.attr.ino, os.O_RDONLY))
    assert volume.read(entry.attr.ino, again, 0, 99) == b"theirs"
    volume.run(fs.release(volume.request(), entry.attr.ino, again.fh))
    volume.stop()


@pytest.mark.parametrize("under_way", [False, True])
def test_a_race_that_was_lost_often_is_decided_as_soon_as_the_file_is_closed(
    tmp_path: Path, under_way: bool
) -> None:
    """Somebody had it open all the time: each flush lost, and made the pause longer."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        ino, opened = await begin(volume, b"f", b"ours")
        reader = await fs.open(volume.request(), ino, os.O_RDONLY)
        await MemoryStore(volume.bucket).put("f", b"theirs")
        for _ in range(3 if under_way else 9):
            with pytest.raises(PreconditionFailed):
                await fs.flush(volume.request(), ino, opened.fh)
        gate = Gate(volume, "put")
        if not under_way:
            gate.open.set()
            gate.reached.set()
        await fs.release(volume.request(), ino, opened.fh)
        await gate.reached.wait()
        await fs.release(volume.request(), ino, reader.fh)
        gate.open.set()
        await asyncio.sleep(0.5)
        assert volume.events.conflicts == 1
        assert await fs.catalog.pending_count() == 0

    volume.run(run())
    volume.stop()


def test_who_opens_a_file_while_the_loser_is_closed_has_what_the_store_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written there is no part of what was set aside."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="writeback")
    monkeypatch.setattr(rest, "WRITEBACK_REST", HOUR)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", HOUR)
    closing, go_on, close = asyncio.Event(), asyncio.Event(), StagedFile.close

    async def slowly(file: StagedFile) -> None:
        closing.set()
        await go_on.wait()
        await close(file)

    async def run() -> int:
        fs = volume.fs
        ino, opened = await begin(volume, b"f", b"ours")
        await fs.release(volume.request(), ino, opened.fh)
        await MemoryStore(volume.bucket).put("f", b"theirs")
        races, inode = fs.content.objects._races, await fs.catalog.get(ino)
        row, found = await fs.catalog.pending("f"), await races.found("f")
        assert row is not None
        async with fs.opened.held(ino) as record:
            record.file = await fs.content.objects.open_stage(inode)
            with monkeypatch.context() as patch:
                patch.setattr(StagedFile, "close", slowly)
                losing = asyncio.ensure_future(races.lost(inode, row, found, OSError()))
                await closing.wait()
            again = await fs.open(volume.request(), ino, os.O_RDWR)
            await fs.write(volume.request(), ino, again.fh, 0, memoryview(b"later "))
            go_on.set()
            await losing
        await fs.release(volume.request(), ino, again.fh)
        return await fs.drain(5.0)

    assert volume.run(run()) == 0
    assert volume.objects() == {"f": b"later "}
    assert volume.events.conflicts == 1
    volume.stop()


def test_of_the_loser_no_extended_attribute_is_left(tmp_path: Path) -> None:
    """They would be shown on the other's version, and be stored into it with the next change."""
    volume = Volume(tmp_path, passthrough=False, ttl=0, posix=True)

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"f", b"ours")
        await fs.setxattr(volume.request(), ino, b"user.whose", b"ours", 0)
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"OURS!"))
        volume.bucket.objects["f"] = Blob(b"theirs", '"theirs"', 2 * 10**18, {"mode": "33152"})
        with pytest.raises(PreconditionFailed):
            await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        await asyncio.sleep(HOUR)
        entry = await fs.lookup(volume.request(), ROOT, b"f")
        assert entry.attr is not None and entry.attr.size == len(b"theirs")
        assert await fs.listxattr(volume.request(), entry.attr.ino) == []
        await fs.setattr(volume.request(), entry.attr.ino, SetAttr(mode=0o640))

    volume.run(run())
    volume.stop()
    assert "slayerfs-xattrs" not in volume.bucket.objects["f"].metadata
    assert volume.bucket.objects["f"].body == b"theirs"


def test_what_others_store_under_an_old_name_stays_there(tmp_path: Path) -> None:
    """They were told that it is stored, and the copy to the new name had been made before."""
    volume = Volume(tmp_path, passthrough=False, ttl=HOUR)

    async def run() -> None:
        fs = volume.fs
        for name in (b"a", b"b"):
            await create(volume, name, b"ours")
        gate = Gate(volume, "copy", after=True)
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"c", 0)
        await fs.rename(volume.request(), ROOT, b"b", ROOT, b"d", 0)
        await gate.reached.wait()
        gate.remove()
        volume.bucket.objects["a"] = Blob(b"theirs", '"theirs"', 2 * 10**18, {})
        gate.open.set()
        assert await fs.drain(DRAIN) == 0

    volume.run(run())
    assert volume.objects() == {"a": b"theirs", "c": b"ours", "d": b"ours"}
    volume.stop()
