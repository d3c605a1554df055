"""While a staged copy is made durable, sent, or asked for, something happens; the power goes."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, Mark
from csi_slayer.content import durable, overlay, overlay_map, rest
from csi_slayer.content.durable import AFTER, Durable
from csi_slayer.content.overlay import BLOCK
from csi_slayer.content.staged import StagedFile
from csi_slayer.errors import FsError, StoreUnavailable
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore
from tests.unit.vfs.test_power_loss import (
    HOUR,
    LARGE,
    NOTE,
    OLD,
    content,
    created,
    fsync,
    kept,
    lose_power,
    older,
    opened,
    refusing,
    release,
    row,
    saved,
    the_stage,
    upload_soon,
    volume,
)

__all__ = ["volume"]


class Slow:
    """A sync that takes until it is let go."""

    def __init__(self, volume: Volume, real: Callable[..., object] = lambda *_: None) -> None:
        self._real = real
        self._began, self._gate = threading.Event(), threading.Event()
        volume.loop.threaded = True

    def __call__(self, *args: object) -> None:
        self._real(*args)
        self._began.set()
        assert self._gate.wait(10)

    async def during(self, call: Awaitable[object], meanwhile: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.ensure_future(call)
        while not self._began.is_set():  # noqa: ASYNC110 - a thread tells
            await asyncio.sleep(0.001)
        try:
            return await meanwhile
        finally:
            self._gate.set()
            await task

    def let_go(self) -> None:
        self._gate.set()


def staged(volume: Volume, ino: int) -> StagedFile:
    record = volume.fs.opened.get(ino)
    assert record is not None and isinstance(record.file, StagedFile)
    return record.file


def slow_sync(
    volume: Volume, ino: int, how: str, monkeypatch: pytest.MonkeyPatch, *, real: bool = True
) -> tuple[Slow, Coroutine[Any, Any, object]]:
    """One of a file, or of the whole disk."""
    if how == "one":
        file = staged(volume, ino)
        slow = Slow(volume, file.sync if real else lambda: None)
        monkeypatch.setattr(file, "sync", slow)
        return slow, volume.fs.content.durable.sync(ino)
    slow = Slow(volume)
    monkeypatch.setattr(durable, "_sync_all", slow)
    monkeypatch.setattr(durable, "MANY", 1)
    return slow, volume.fs.content.durable._settle([ino])


@pytest.mark.parametrize("how", ["one", "all"])
def test_emptied_while_it_is_made_durable(
    volume: Volume, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    slow, call = slow_sync(volume, ino, how, monkeypatch)
    empty = volume.fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
    other: Opened = volume.run(slow.during(call, empty))
    volume.write(ino, other, 0, b"second")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == OLD


@pytest.mark.parametrize("how", ["one", "all"])
def test_uploaded_while_it_is_made_durable(
    volume: Volume, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.live.durability = "fsync"
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    stage = the_stage(volume)
    os.utime(stage, ns=(0, stage.stat().st_mtime_ns - 10**9))
    disk = older(stage)
    slow, call = slow_sync(volume, ino, how, monkeypatch, real=False)

    async def upload() -> None:
        os.pwrite(staged(volume, ino).fd, b"SECOND", 0)
        await volume.fs.fsync(volume.request(), ino, handle.fh, False)

    volume.run(slow.during(call, upload()))
    assert volume.objects()["f"].startswith(b"SECOND")
    lose_power(volume, monkeypatch, unwritten=False, disk=disk)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"].startswith(b"SECOND")


async def _away(*_: object, **__: object) -> Any:
    raise StoreUnavailable("the store is away")


def test_fsync_of_a_large_file_while_it_is_sent(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 0, b"first")
    put = volume.store.put_file

    async def slow(*args: Any, **kwargs: Any) -> Any:
        info = await put(*args, **kwargs)
        data = memoryview(b"later")
        await volume.fs.write(volume.request(), ino, handle.fh, 5 * BLOCK, data)
        await volume.fs.fsync(volume.request(), ino, handle.fh, False)
        return info

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "put_file", slow)
        volume.run(volume.fs._note(ino))
        volume.run(volume.fs.content.reconciler.settle("large"))
    assert volume.objects()["large"][:5] == b"first"
    monkeypatch.setattr(volume.store, "put_file", _away)
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["large"][5 * BLOCK : 5 * BLOCK + 5] == b"later"
    assert not kept(volume)


def test_a_large_file_is_emptied_while_it_is_made_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint of before must not come after its revocation."""
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 5, b"changed")
    slow = Slow(volume, overlay.sync)
    monkeypatch.setattr(overlay, "sync", slow)

    async def empty() -> Opened:
        call = volume.fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0.05)
        slow.let_go()
        return await task

    other: Opened = volume.run(slow.during(volume.fs.content.durable.sync(ino), empty()))
    for at in range(0, len(LARGE), BLOCK):
        volume.write(ino, other, at, b"n" * min(BLOCK, len(LARGE) - at))
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["large"] in (LARGE, b"n" * len(LARGE))


@pytest.mark.parametrize("how", ["half a minute", "unmounted"])
def test_what_a_power_loss_has_left_does_not_become_durable(
    volume: Volume, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the store has said what it has."""
    ino, handle = created(volume, b"new", b"first")
    volume.run(volume.fs._note(ino))
    rows = saved(volume)
    volume.run(volume.fs.content.reconciler.settle("new"))
    volume.write(ino, handle, 0, b"later")
    stage = the_stage(volume)
    mtime_ns = stage.stat().st_mtime_ns + 10**9

    def disk() -> None:
        stage.write_bytes(bytes(5))
        os.utime(stage, ns=(mtime_ns, mtime_ns))

    monkeypatch.setattr(Durable, "note", NOTE)
    with monkeypatch.context() as patch:
        for name in ("put", "put_file", "head"):
            patch.setattr(MemoryStore, name, _away)
        lose_power(volume, monkeypatch, unwritten=False, rows=rows, disk=disk)
        if how == "unmounted":
            volume.run(volume.fs.content.durable.finish())
        else:
            volume.turn(int((AFTER + 2) / 0.002))
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["new"] == b"first" and kept(volume) == ["new"]


def test_the_size_of_bytes_that_never_came_to_the_disk(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    fsync(volume, ino, handle)
    volume.run(volume.fs.content.reconciler.settle("f"))
    stage = the_stage(volume)
    disk = older(stage)
    volume.write(ino, handle, len(OLD), b"appended")
    os.utime(stage, ns=(0, stage.stat().st_mtime_ns + 10**9))
    volume.run(volume.fs._note(ino))
    rows = saved(volume)
    lose_power(volume, monkeypatch, unwritten=False, rows=rows, disk=disk)
    volume.run(volume.fs.drain(DRAIN))
    assert content(volume, b"f") == volume.objects()["f"] == b"first" + OLD[5:]


@pytest.mark.parametrize("closed", [True, False])
def test_the_disk_refuses_while_it_is_sent(
    volume: Volume, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has the bytes: no fsync has to tell of it any more."""
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    put = volume.store.put

    async def slow(*args: Any, **kwargs: Any) -> Any:
        info = await put(*args, **kwargs)
        with refusing(volume), pytest.raises(FsError):
            await volume.fs.content.durable.sync(ino)
        return info

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "put", slow)
        volume.run(volume.fs._note(ino))
        volume.run(volume.fs.content.reconciler.settle("f"))
    if closed:
        upload_soon(monkeypatch)
        release(volume, ino, handle)
        volume.run(volume.fs.drain(DRAIN))
        volume.turn(100)
        ino, handle = opened(volume, b"f")
        volume.write(ino, handle, 0, b"CHANGED")
    fsync(volume, ino, handle)
    release(volume, ino, handle)


def test_what_the_disk_has_lost_becomes_no_segment(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    with refusing(volume), pytest.raises(FsError):
        fsync(volume, ino, handle)
    volume.run(volume.fs.content.reconciler.settle("f"))
    stage = the_stage(volume)
    found = stage.stat()
    with stage.open("r+b") as file:  # the page is clean for the kernel, and has gone
        file.write(OLD[:7])
    os.utime(stage, ns=(found.st_atime_ns, found.st_mtime_ns))
    release(volume, ino, handle)
    volume.turn(50)
    assert content(volume, b"f") == volume.objects()["f"] == b"changed" + OLD[7:]


def test_written_while_the_store_is_asked(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what was staged when it was asked; that is not dropped with what came after."""
    ino, handle = created(volume, b"new", b"first")
    fsync(volume, ino, handle)
    rows = saved(volume)
    volume.run(volume.fs.content.reconciler.settle("new"))
    head, written = MemoryStore.head, []

    async def slow(self: MemoryStore, key: str) -> Any:
        found = await head(self, key)
        if key == "new" and not written and hasattr(volume.fs, "content"):
            written.append(key)
            fs = volume.fs
            handle = await fs.open(volume.request(), ino, os.O_RDWR)
            os.pwrite(staged(volume, ino).fd, b"AFTER THE BOOT", 0)
            await fs.fsync(volume.request(), ino, handle.fh, False)
            await fs.release(volume.request(), ino, handle.fh)
        return found

    monkeypatch.setattr(MemoryStore, "head", slow)
    lose_power(volume, monkeypatch, unwritten=False, rows=rows)
    volume.run(volume.fs.drain(DRAIN))
    volume.turn(50)
    assert written and volume.objects()["new"] == b"AFTER THE BOOT"


@pytest.mark.parametrize("mark", [Mark.SUSPECT, Mark.UNWRITTEN, Mark.UNKEPT])
def test_marks_go_with_the_staged_copy(
    volume: Volume, mark: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here by a conflict."""
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    volume.run(volume.catalog.update(ino, add=mark))
    volume.bucket.objects["f"] = Blob(b"of somebody else", '"else"', 10**18 + 5, {})
    upload_soon(monkeypatch)
    release(volume, ino, handle)
    volume.run(volume.fs.drain(DRAIN))
    volume.turn(100)
    assert kept(volume) == ["f"]
    monkeypatch.setattr(rest, "WRITEBACK_REST", HOUR)
    ino, handle = opened(volume, b"f")
    assert row(volume, ino).flags & Mark.OF_STAGE == Mark.UNSYNCED
    volume.write(ino, handle, 0, b"good")
    fsync(volume, ino, handle)
    release(volume, ino, handle)


def test_the_end_waits_for_what_is_being_made_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    slow, _call = slow_sync(volume, ino, "one", monkeypatch)
    _call.close()
    monkeypatch.setattr(Durable, "note", NOTE)
    whole = volume.fs.content.durable

    async def look() -> bool:
        end = asyncio.ensure_future(whole.finish())
        for _ in range(20):
            time.sleep(0.002)  # noqa: ASYNC251 - the time of a thread, not of the loop
            await asyncio.sleep(0)
        early = end.done()
        slow.let_go()
        await end
        return early

    early = volume.run(slow.during(whole._settle([ino]), look()))
    assert not early and not row(volume, ino).flags & Mark.UNSYNCED


def test_the_mark_is_taken_away_durably(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Durable, "note", NOTE)
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    volume.run(volume.fs._note(ino))
    rows = saved(volume)
    synced = type(volume.catalog).synced

    async def note(catalog: Any) -> None:
        await synced(catalog)
        for path in volume.root.glob("catalog.db*"):
            if not path.name.endswith("-shm"):
                rows[path.name] = path.read_bytes()

    monkeypatch.setattr(type(volume.catalog), "synced", note)
    volume.turn(int((AFTER + 5) / 0.002))
    lose_power(volume, monkeypatch, unwritten=False, rows=rows)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == b"changed" + OLD[7:]


def test_a_parted_inode_becomes_durable_as_well(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    monkeypatch.setattr(Durable, "note", NOTE)
    record = volume.fs.opened.get(ino)
    assert record is not None
    volume.run(volume.fs.split(record))
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"f"))
    assert entry.attr is not None and entry.attr.ino != ino
    volume.turn(int((AFTER + 2) / 0.002))
    assert not row(volume, entry.attr.ino).flags & Mark.UNSYNCED
    release(volume, ino, handle)


def test_the_name_of_a_checkpoint_is_durable(tmp_path: Path) -> None:
    """After a first try that failed, too: it is synced each time."""
    stage = tmp_path / "stage"
    stage.write_bytes(b"bytes")
    (tmp_path / "stage.blocks").write_bytes(overlay_map.HEADER.pack(overlay_map.MAGIC, BLOCK, 5))
    synced: list[str] = []
    with pytest.MonkeyPatch.context() as patch, (tmp_path / "stage.blocks").open("r+b") as file:
        file.truncate(overlay_map.HEADER_SIZE)
        patch.setattr(overlay_map, "sync_directory", synced.append)
        for _ in range(2):
            overlay_map.checkpoint(str(stage), file.fileno(), ("b", "a"), lambda: None)
    assert len(synced) == 2
    assert overlay_map.restore(str(stage), "a") and overlay_map.restore(str(stage), "b")
    assert not overlay_map.restore(str(stage), "c")
