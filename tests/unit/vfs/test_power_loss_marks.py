"""What is made durable while a file is sent, or while who waits for it is killed."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from csi_slayer.catalog import Mark
from csi_slayer.content import overlay, settling
from csi_slayer.content.overlay import BLOCK, OverlayFile
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Opened, SetAttr
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.test_power_loss import (
    LARGE,
    OLD,
    fsync,
    kept,
    lose_power,
    older,
    opened,
    release,
    row,
    saved,
    the_stage,
    volume,
)
from tests.unit.vfs.test_power_loss_races import Slow, staged

__all__ = ["volume"]


def test_synced_and_written_before_an_upload_looks_at_the_file(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    stage = the_stage(volume)
    os.utime(stage, ns=(0, stage.stat().st_mtime_ns - 10**9))
    volume.run(volume.fs._note(ino))
    patient, disk = volume.fs.opened.patient, list[Callable[[], None]]()
    run = patient.run

    async def late(*args: Any) -> Any:  # its threads wait for writes to other files
        await volume.fs.fsync(volume.request(), ino, handle.fh, False)
        disk.append(older(stage))
        os.pwrite(staged(volume, ino).fd, b"SECOND", 0)
        return await run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(settling, "is_at_rest", lambda _fd: False)
        patch.setattr(patient, "run", late)
        volume.run(volume.fs.content.reconciler.settle("f"))
    assert volume.objects()["f"].startswith(b"SECOND")
    rows = saved(volume)
    lose_power(volume, monkeypatch, unwritten=False, rows=rows, disk=disk[0])
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"].startswith(b"SECOND")


def test_who_waits_for_fsync_is_killed_and_the_disk_refuses(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of it once."""
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    slow, sync, told = Slow(volume), os.fsync, list[int]()

    def refuse(fd: int) -> None:
        if told:
            return sync(fd)
        told.append(fd)
        slow()
        raise OSError(errno.EIO, "lost")

    async def killed() -> None:
        call.cancel()
        for _ in range(10):
            await asyncio.sleep(0)

    async def run() -> None:
        nonlocal call
        call = asyncio.ensure_future(volume.fs.fsync(volume.request(), ino, handle.fh, False))
        with pytest.raises(asyncio.CancelledError):
            await slow.during(call, killed())

    call: asyncio.Future[None]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        volume.run(run())
        with pytest.raises(FsError):
            fsync(volume, ino, handle)
    release(volume, ino, handle)


def test_a_large_file_is_emptied_while_another_sync_waits_for_its_turn(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That has its turn when the file is cut, not when it is about to be."""
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 5, b"changed")
    record = volume.fs.opened.get(ino)
    assert record is not None and isinstance(record.file, OverlayFile)
    other = threading.Thread(target=record.file.sync)

    async def late(call: Callable[[threading.Event], None]) -> None:
        await to_its_end(call)
        other.start()
        other.join(0.2)

    with monkeypatch.context() as patch:
        patch.setattr(overlay, "to_its_end", late)
        call = volume.fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
        emptied: Opened = volume.run(call)
    other.join()
    for at in range(0, len(LARGE), BLOCK):
        volume.write(ino, emptied, at, b"n" * min(BLOCK, len(LARGE) - at))
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["large"] in (LARGE, b"n" * len(LARGE))


def test_a_file_is_emptied_after_a_sync_although_its_program_was_killed(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync that ends before has what the file had, and not what it has then."""
    ino, handle = opened(volume, b"f")
    begun, go_on, do = threading.Event(), threading.Event(), os.ftruncate

    def late(fd: int, size: int) -> None:
        begun.set()
        assert go_on.wait(10)
        do(fd, size)

    async def killed() -> None:
        call = asyncio.ensure_future(volume.fs.setattr(volume.request(), ino, SetAttr(size=0)))
        while not begun.is_set():  # noqa: ASYNC110 - a thread tells
            await asyncio.sleep(0.001)
        call.cancel()
        await volume.fs.fsync(volume.request(), ino, handle.fh, False)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        while volume.catalog.used_bytes != used:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)

    used = volume.catalog.used_bytes - len(OLD)
    volume.loop.threaded = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", late)
        volume.run(killed())
    volume.loop.threaded = False
    volume.write(ino, handle, 0, b"changed")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == OLD
    assert kept(volume) == ["f"]


def test_a_sync_that_began_before_ends_while_a_file_is_about_to_be_emptied(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    slow, sync, begun = Slow(volume), os.fsync, list[int]()
    durable, journal = volume.fs.content.durable, volume.catalog.synced

    def first_waits(fd: int) -> None:
        begun.append(fd)
        if len(begun) == 1:
            slow()
        sync(fd)

    async def meanwhile() -> None:
        await volume.fs.fsync(volume.request(), ino, handle.fh, False)

        async def late() -> None:
            slow.let_go()
            await first
            await journal()

        with monkeypatch.context() as patch:
            patch.setattr(volume.catalog, "synced", late)
            await durable.emptied(ino)

    async def run() -> None:
        nonlocal first
        first = asyncio.ensure_future(durable._sync(ino, staged(volume, ino)))
        await slow.during(first, meanwhile())

    first: asyncio.Future[None]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", first_waits)
        volume.run(run())
    volume.loop.threaded = False
    assert row(volume, ino).flags & Mark.UNSYNCED
    release(volume, ino, handle)
