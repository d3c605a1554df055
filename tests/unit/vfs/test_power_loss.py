"""The power goes: of a staged copy that was not made durable the disk has anything, or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, Inode, Mark
from csi_slayer.content import overlay_map, recovery, rest
from csi_slayer.content.durable import AFTER, MANY, Durable
from csi_slayer.content.overlay import BLOCK, OverlayFile
from csi_slayer.errors import CacheFull, FsError
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

HOUR = 3600.0
NOTE = Durable.note
OLD = b"what the store has " * 50
LARGE = bytes(range(1, 251)) * (12 * BLOCK // 250)


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Volume]:
    monkeypatch.setattr(rest, "WRITEBACK_REST", HOUR)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", HOUR)
    # In these tests time goes by in no time: by itself nothing becomes durable.
    monkeypatch.setattr(Durable, "note", lambda self, ino: None)
    volume = Volume(
        tmp_path, passthrough=True, ttl=HOUR, durability="writeback", hydrate_max=2 * BLOCK
    )
    volume.bucket.objects["f"] = Blob(OLD, '"old"', 10**18, {})
    volume.bucket.objects["large"] = Blob(LARGE, '"large"', 10**18, {})
    yield volume
    volume.stop()


def opened(volume: Volume, name: bytes, flags: int = os.O_RDWR) -> tuple[int, Opened]:
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, name))
    assert entry.attr is not None
    ino = entry.attr.ino
    return ino, volume.run(volume.fs.open(volume.request(), ino, flags))


def content(volume: Volume, name: bytes) -> bytes:
    ino, handle = opened(volume, name, os.O_RDONLY)
    data = volume.read(ino, handle, 0, 1 << 22)
    volume.run(volume.fs.release(volume.request(), ino, handle.fh))
    return data


def row(volume: Volume, ino: int) -> Inode:
    return volume.run(volume.catalog.get(ino))


def lose_power(volume: Volume, monkeypatch: pytest.MonkeyPatch, *, unwritten: bool = True) -> None:
    """Another boot; ``unwritten``: of the staged bytes nothing had come to the disk."""
    staging = volume.fs.content.staging
    volume.die()
    volume.kernel.close()
    for stage in staging.list():
        if unwritten:
            found = stage.path.stat()
            stage.path.write_bytes(b"")
            os.truncate(stage.path, found.st_size)
            os.utime(stage.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    monkeypatch.setattr(recovery, "boot_generation", lambda: 7)
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.0)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", 0.0)
    volume.start(taken_over=False)


def kept(volume: Volume) -> list[str]:
    return [path.name.split("-")[1] for path in volume.fs.content.conflicts.list()]


@pytest.mark.parametrize("name", [b"f", b"large"])
def test_what_was_only_opened_is_the_stores(
    volume: Volume, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = volume.objects()
    opened(volume, name)
    lose_power(volume, monkeypatch)
    assert content(volume, name) == before[name.decode()]
    volume.run(volume.fs.drain(1))
    assert volume.objects() == before and not kept(volume)


@pytest.mark.parametrize("name", [b"f", b"large"])
def test_what_was_changed_without_fsync_does_not_replace_the_stores(
    volume: Volume, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = volume.objects()
    ino, handle = opened(volume, name)
    volume.write(ino, handle, 5, b"changed")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(1))
    assert volume.objects() == before
    assert content(volume, name) == before[name.decode()]
    assert kept(volume) == [name.decode()]
    assert not list(volume.fs.content.staging.list())


@pytest.mark.parametrize("name", [b"f", b"large"])
def test_what_fsync_has_confirmed_is_uploaded(
    volume: Volume, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, name)
    volume.write(ino, handle, 5, b"changed")
    volume.run(volume.fs.fsync(volume.request(), ino, handle.fh, False))
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(1))
    was = OLD if name == b"f" else LARGE
    assert volume.objects()[name.decode()] == was[:5] + b"changed" + was[12:]
    assert not kept(volume)


def test_of_a_large_file_the_state_of_the_last_fsync_counts(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 5, b"changed")
    volume.run(volume.fs.fsync(volume.request(), ino, handle.fh, False))
    volume.write(ino, handle, 2 * BLOCK + 9, b"not synced")
    (stage,) = volume.fs.content.staging.list()
    with open(stage.path, "r+b") as file:  # the block was marked, its bytes never came
        os.posix_fallocate(file.fileno(), 0, 1)
        file.seek(2 * BLOCK)
        file.write(bytes(BLOCK))
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["large"] == LARGE[:5] + b"changed" + LARGE[12:]


def test_after_a_while_it_is_durable_without_fsync(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durable, "note", NOTE)
    ino, handle = opened(volume, b"f")
    large, large_handle = opened(volume, b"large")
    volume.write(ino, handle, 0, b"changed")
    volume.write(large, large_handle, 0, b"changed")
    assert row(volume, ino).flags & Mark.UNSYNCED
    volume.turn(int((AFTER + 2) / 0.002))
    assert not row(volume, ino).flags & Mark.UNSYNCED
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["f"] == b"changed" + OLD[7:]
    assert volume.objects()["large"] == b"changed" + LARGE[7:]


def test_an_end_with_uploads_left_makes_them_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durable, "note", NOTE)
    monkeypatch.setattr(Durable, "_watch", _never)
    for name in (b"f", b"large"):
        ino, handle = opened(volume, name)
        volume.write(ino, handle, 0, b"changed")
        volume.run(volume.fs.release(volume.request(), ino, handle.fh))
    volume.run(volume.fs.content.durable.finish())
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["f"] == b"changed" + OLD[7:]
    assert volume.objects()["large"] == b"changed" + LARGE[7:]


async def _never(_durable: Durable) -> None:
    """Nothing is made durable for as long as a test takes."""


def test_many_are_made_durable_at_once(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Durable, "note", NOTE)
    handles = {}
    for number in range(MANY):
        created = volume.fs.create(volume.request(), ROOT, b"n%d" % number, 0o644, os.O_RDWR)
        entry, handle = volume.run(created)
        assert entry.attr is not None
        handles[entry.attr.ino] = handle.fh
    volume.turn(int((AFTER + 2) / 0.002))
    assert not any(row(volume, ino).flags & Mark.UNSYNCED for ino in handles)
    for ino, fh in handles.items():
        volume.run(volume.fs.release(volume.request(), ino, fh))


def test_one_that_cannot_be_made_durable_is_tried_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durable, "note", NOTE)
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    fdatasync, refused = os.fdatasync, []

    def refuse(fd: int) -> None:
        if not refused:
            refused.append(fd)
            raise OSError(errno.EIO, "Input/output error")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", refuse)
    volume.turn(int((AFTER + 2) / 0.002))
    assert refused and row(volume, ino).flags & Mark.UNSYNCED
    volume.turn(int((AFTER + 2) / 0.002))
    assert not row(volume, ino).flags & Mark.UNSYNCED
    with pytest.raises(FsError):  # whoever asks is told that the disk had lost something
        volume.run(volume.fs.fsync(volume.request(), ino, handle.fh, False))
    volume.run(volume.fs.release(volume.request(), ino, handle.fh))


def test_a_new_file_is_what_the_local_disk_has_of_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, handle = volume.run(volume.fs.create(volume.request(), ROOT, b"new", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, handle, 0, b"bytes")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["new"] == bytes(5) and not kept(volume)


@pytest.mark.parametrize("how", ["renamed", "emptied", "removed"])
def test_a_new_content_takes_no_place_before_it_is_durable(
    volume: Volume, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, fs = volume.request, volume.fs
    if how == "emptied":
        ino, handle = opened(volume, b"f", os.O_RDWR | os.O_TRUNC)
    else:
        opened(volume, b"f", os.O_RDONLY)
        if how == "removed":
            volume.run(fs.unlink(request(), ROOT, b"f"))
        name = b"f" if how == "removed" else b"temporary"
        entry, handle = volume.run(fs.create(request(), ROOT, name, 0o644, os.O_RDWR))
        assert entry.attr is not None
        ino = entry.attr.ino
    volume.write(ino, handle, 0, b"new content")
    if how == "renamed":
        volume.run(fs.rename(request(), ROOT, b"temporary", ROOT, b"f", 0))
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["f"] == OLD == content(volume, b"f")
    assert kept(volume) == ["f"]


def test_a_missing_staged_copy_does_not_empty_the_object(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(volume, b"f", os.O_RDONLY)
    entry, handle = volume.run(
        volume.fs.create(volume.request(), ROOT, b"temporary", 0o644, os.O_RDWR)
    )
    assert entry.attr is not None
    volume.write(entry.attr.ino, handle, 0, b"new content")
    volume.run(volume.fs.rename(volume.request(), ROOT, b"temporary", ROOT, b"f", 0))
    staging = volume.fs.content.staging
    volume.die()
    volume.kernel.close()
    for stage in list(staging.list()):
        staging.remove(stage.id)
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.0)
    volume.start(taken_over=False)
    volume.run(volume.fs.drain(1))
    assert volume.objects()["f"] == OLD == content(volume, b"f")


def test_a_disk_that_refuses_is_told_of_until_the_store_has_the_bytes(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    fdatasync = os.fdatasync

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    def fsync() -> None:
        volume.run(volume.fs.fsync(volume.request(), ino, handle.fh, False))

    monkeypatch.setattr(os, "fdatasync", refuse)
    with pytest.raises(FsError):
        fsync()
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for _ in range(2):
        with pytest.raises(FsError) as caught:
            fsync()
        assert caught.value.errno == errno.EIO
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.0)
    volume.run(volume.fs.release(volume.request(), ino, handle.fh))
    volume.run(volume.fs.drain(1))
    assert volume.objects()["f"] == b"changed" + OLD[7:]
    ino, handle = opened(volume, b"f")
    fsync()


def test_a_checkpoint_is_what_was_durable_then(tmp_path: Path) -> None:
    path = str(tmp_path / "stage")
    assert not overlay_map.restore(path)
    (tmp_path / "stage.synced").write_bytes(b"")
    assert not overlay_map.restore(path), "the power went while it was made"


def test_fetching_on_a_full_disk_marks_nothing(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"large")
    record = volume.fs.opened.get(ino)
    assert record is not None and isinstance(record.file, OverlayFile)
    mtime_ns = record.file.stat().st_mtime_ns
    pwrite = os.pwrite
    room = [BLOCK // 2]

    def short(fd: int, data: Any, offset: int) -> int:
        taken = min(len(data), room[0])
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= taken
        return pwrite(fd, data[:taken], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", short)
        call = volume.fs.write(volume.request(), ino, handle.fh, BLOCK + 1, memoryview(b"x"))
        with pytest.raises(CacheFull):
            volume.run(call)
    assert record.file.stat().st_mtime_ns == mtime_ns
    assert volume.read(ino, handle, 0, len(LARGE)) == LARGE
