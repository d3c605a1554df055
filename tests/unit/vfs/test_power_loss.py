"""The power goes: of a staged copy that was not made durable the disk has anything, or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import conflicts
from csi_slayer.catalog import ROOT, Inode, Mark
from csi_slayer.content import overlay_map, recovery, rest
from csi_slayer.content.durable import AFTER, MANY, Durable
from csi_slayer.content.overlay import BLOCK, OverlayFile
from csi_slayer.errors import CacheFull, FsError
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.harness import DRAIN, Volume
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


def upload_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "WRITEBACK_REST", 0.0)
    monkeypatch.setattr(rest, "WRITEBACK_REST_MAX", 0.0)


def saved(volume: Volume) -> dict[str, bytes]:
    """What of the catalog is on the disk after a sync."""
    volume.run(volume.catalog.synced())
    paths = volume.root.glob("catalog.db*")
    return {path.name: path.read_bytes() for path in paths if not path.name.endswith("-shm")}


def lose_power(
    volume: Volume,
    monkeypatch: pytest.MonkeyPatch,
    *,
    unwritten: bool = True,
    rows: dict[str, bytes] | None = None,
    disk: Callable[[], object] = lambda: None,
) -> None:
    """Another boot. ``unwritten``: of the staged bytes nothing had come to the disk; ``rows``: the
    catalog of then is on it; ``disk()`` makes the staged files what is."""
    staging = volume.fs.content.staging
    volume.die()
    volume.kernel.close()
    if rows is not None:
        for path in volume.root.glob("catalog.db*"):
            path.unlink()
        for name, data in rows.items():
            (volume.root / name).write_bytes(data)
    for stage in staging.list():
        if unwritten:
            found = stage.path.stat()
            stage.path.write_bytes(b"")
            os.truncate(stage.path, found.st_size)
            os.utime(stage.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    disk()
    monkeypatch.setattr(recovery, "boot_generation", lambda: 7)
    upload_soon(monkeypatch)
    volume.start(taken_over=False)


def created(volume: Volume, name: bytes, data: bytes) -> tuple[int, Opened]:
    call = volume.fs.create(volume.request(), ROOT, name, 0o644, os.O_RDWR)
    entry, handle = volume.run(call)
    assert entry.attr is not None
    volume.write(entry.attr.ino, handle, 0, data)
    return entry.attr.ino, handle


def fsync(volume: Volume, ino: int, handle: Opened) -> None:
    volume.run(volume.fs.fsync(volume.request(), ino, handle.fh, False))


def release(volume: Volume, ino: int, handle: Opened) -> None:
    volume.run(volume.fs.release(volume.request(), ino, handle.fh))


def the_stage(volume: Volume) -> Path:
    (stage,) = volume.fs.content.staging.list()
    return stage.path


def older(path: Path) -> Callable[[], None]:
    """The disk has a staged file as it is now, for all that is written later."""
    data, found = path.read_bytes(), path.stat()

    def write() -> None:
        path.write_bytes(data)
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    return write


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
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects() == before and not kept(volume)


@pytest.mark.parametrize("name", [b"f", b"large"])
def test_what_was_changed_without_fsync_does_not_replace_the_stores(
    volume: Volume, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = volume.objects()
    ino, handle = opened(volume, name)
    volume.write(ino, handle, 5, b"changed")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
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


@contextmanager
def refusing(volume: Volume, error: int = errno.EIO) -> Iterator[None]:
    """The disk does not keep the staged bytes, and says so for as long as this lasts."""
    stage = the_stage(volume).stat().st_ino
    sync = os.fsync

    def refuse(fd: int) -> None:
        if os.fstat(fd).st_ino == stage:
            raise OSError(error, os.strerror(error))
        sync(fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_is_told_of_until_the_store_has_the_bytes(
    volume: Volume, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    with refusing(volume, error), pytest.raises(FsError) as caught:
        fsync(volume, ino, handle)
    assert caught.value.errno == error
    for again in (False, True):
        with pytest.raises(FsError) as caught:
            fsync(volume, ino, handle)
        assert caught.value.errno == errno.EIO
        if not again:  # by who opens it anew, too
            release(volume, ino, handle)
            ino, handle = opened(volume, b"f")
    upload_soon(monkeypatch)
    release(volume, ino, handle)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == b"changed" + OLD[7:]
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"CHANGED")
    fsync(volume, ino, handle)
    release(volume, ino, handle)


def test_what_the_disk_has_lost_does_not_become_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes the pages for written after it has told of the error."""
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    monkeypatch.setattr(Durable, "note", NOTE)
    with refusing(volume):
        note(volume, ino)
        volume.turn(int((AFTER + 2) / 0.002))
    volume.turn(int((AFTER + 2) / 0.002))
    assert row(volume, ino).flags & Mark.UNSYNCED
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == OLD and kept(volume) == ["f"]


def test_too_few_descriptors_are_no_loss(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")
    release(volume, ino, handle)
    monkeypatch.setattr(Durable, "note", NOTE)
    with monkeypatch.context() as patch:
        patch.setattr(type(volume.fs.content.objects), "open_stage", _no_descriptor)
        note(volume, ino)
        volume.turn(int((AFTER + 2) / 0.002))
        assert row(volume, ino).flags & Mark.UNSYNCED
    volume.turn(int((AFTER + 2) / 0.002))
    assert not row(volume, ino).flags & (Mark.UNSYNCED | Mark.UNWRITTEN)


def note(volume: Volume, ino: int) -> None:
    async def call() -> None:
        volume.fs.content.durable.note(ino)

    volume.run(call())


async def _no_descriptor(*_: object) -> None:
    raise FsError(errno.ENFILE)


def test_a_new_file_is_what_the_local_disk_has_of_it(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, handle = volume.run(volume.fs.create(volume.request(), ROOT, b"new", 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.write(entry.attr.ino, handle, 0, b"bytes")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
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
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == OLD == content(volume, b"f")


def test_a_checkpoint_is_what_was_durable_then(tmp_path: Path) -> None:
    path = str(tmp_path / "stage")
    assert not overlay_map.restore(path, "etag")
    (tmp_path / "stage.synced").write_bytes(b"")
    assert not overlay_map.restore(path, "etag"), "the power went while it was made"


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


@pytest.mark.parametrize("adopted", [True, False])
def test_an_upload_that_is_forgotten_is_not_replaced(
    volume: Volume, adopted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staged copy became a segment, or is zeros; the catalog knows of no upload."""
    ino, handle = created(volume, b"new", b"precious")
    fsync(volume, ino, handle) if adopted else volume.run(volume.fs._note(ino))
    rows, stage = saved(volume), the_stage(volume)
    upload_soon(monkeypatch)
    release(volume, ino, handle)
    volume.run(volume.fs.drain(DRAIN))
    volume.turn(200)
    assert not list(volume.fs.content.staging.list())
    disk = (lambda: None) if adopted else (lambda: stage.write_bytes(bytes(8)))
    lose_power(volume, monkeypatch, rows=rows, disk=disk)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["new"] == b"precious" == content(volume, b"new")


@pytest.mark.parametrize("name", [b"f", b"large"])
def test_an_upload_that_is_forgotten_is_no_conflict(
    volume: Volume, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what fsync had made durable before."""
    ino, handle = opened(volume, name)
    volume.write(ino, handle, 5, b"changed")
    fsync(volume, ino, handle)
    rows, stage = saved(volume), str(the_stage(volume))
    checkpoint = Path(stage + ".synced").read_bytes() if name == b"large" else b""
    volume.run(volume.fs.content.reconciler.settle(name.decode()))
    sent = volume.objects()[name.decode()]

    def back() -> None:
        if checkpoint:
            Path(stage + ".synced").write_bytes(checkpoint)

    lose_power(volume, monkeypatch, unwritten=False, rows=rows, disk=back)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()[name.decode()] == sent == content(volume, name)
    assert not kept(volume)


def test_what_was_written_after_a_forgotten_upload_is_kept_aside(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = created(volume, b"new", b"first")
    volume.run(volume.fs._note(ino))
    rows = saved(volume)
    upload_soon(monkeypatch)
    volume.run(volume.fs.content.reconciler.settle("new"))
    assert volume.objects()["new"] == b"first"
    volume.write(ino, handle, 0, b"later")
    stage = the_stage(volume)
    os.utime(stage, ns=(0, stage.stat().st_mtime_ns + 10**9))
    disk = older(stage)
    lose_power(volume, monkeypatch, unwritten=False, rows=rows, disk=disk)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["new"] == b"first", "it was not made durable"
    assert kept(volume) == ["new"]


@pytest.mark.parametrize("mtime", ["old", "new"])
def test_what_the_store_has_is_not_taken_back(
    volume: Volume, mtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that was durable long ago and is open still, the disk has older bytes than the
    store; their time may be the old one or the new one."""
    volume.live.durability = "fsync"
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    fsync(volume, ino, handle)
    volume.run(volume.fs.content.durable.sync(ino))
    assert not row(volume, ino).flags & Mark.UNSYNCED
    stage = the_stage(volume)
    disk = older(stage)
    volume.write(ino, handle, 0, b"SECOND")
    fsync(volume, ino, handle)
    now = stage.stat()

    def lost() -> None:
        disk()
        if mtime == "new":
            os.utime(stage, ns=(now.st_atime_ns, now.st_mtime_ns))

    lose_power(volume, monkeypatch, unwritten=False, disk=lost)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == b"SECOND" + OLD[6:] == content(volume, b"f")


def test_an_fsync_while_it_is_sent_counts(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    put = volume.store.put

    async def slow(*args: Any, **kwargs: Any) -> Any:
        info = await put(*args, **kwargs)
        os.pwrite(volume.kernel.backing[handle.backing_id], b"later", 0)
        await volume.fs.content.durable.sync(ino)
        return info

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "put", slow)
        volume.run(volume.fs._note(ino))
        volume.run(volume.fs.content.reconciler.settle("f"))
    assert volume.objects()["f"] == b"first" + OLD[5:]
    assert not row(volume, ino).flags & Mark.UNSYNCED
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == b"later" + OLD[5:]


def test_its_time_and_its_name_are_durable_as_well(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its mtime it is known to be changed; fdatasync(2) writes neither."""
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), sync(fd)))
    handles = []
    for name in (b"f", b"large"):
        ino, handle = opened(volume, name)
        handles.append((ino, handle))
        volume.write(ino, handle, 0, b"changed")
        fsync(volume, ino, handle)
    stages = {stage.path.stat().st_ino for stage in volume.fs.content.staging.list()}
    assert stages <= set(synced)
    for ino, handle in handles:
        release(volume, ino, handle)


def test_what_is_emptied_again_is_not_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"first")
    fsync(volume, ino, handle)
    _ino, other = opened(volume, b"f", os.O_RDWR | os.O_TRUNC)
    volume.write(ino, other, 0, b"second")
    lose_power(volume, monkeypatch)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["f"] == OLD and kept(volume) == ["f"]


def test_a_large_file_that_is_written_anew_is_no_mixture(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like cp: all its bytes came to the disk, the map only as of the fsync before."""
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 5, b"changed")
    fsync(volume, ino, handle)
    _ino, other = opened(volume, b"large", os.O_RDWR | os.O_TRUNC)
    for at in range(0, len(LARGE), BLOCK):
        volume.write(ino, other, at, b"n" * min(BLOCK, len(LARGE) - at))
    lose_power(volume, monkeypatch, unwritten=False)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["large"] in (LARGE, b"n" * len(LARGE))


def test_a_checkpoint_over_another_version_is_none(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"large")
    volume.write(ino, handle, 5, b"changed")
    fsync(volume, ino, handle)
    stage = str(the_stage(volume))
    assert overlay_map.is_current(stage, row(volume, ino).etag or "")
    volume.write(ino, handle, 5, b"CHANGED")
    assert not overlay_map.is_current(stage, row(volume, ino).etag or "")
    synced = Path(stage + ".synced").read_bytes()
    volume.run(volume.fs.content.reconciler.settle("large"))
    assert not overlay_map.is_current(stage, row(volume, ino).etag or ""), "the store has it"

    def back() -> None:
        Path(stage + ".synced").write_bytes(synced)

    lose_power(volume, monkeypatch, unwritten=False, disk=back)
    volume.run(volume.fs.drain(DRAIN))
    assert volume.objects()["large"] == LARGE[:5] + b"CHANGED" + LARGE[12:]


def test_what_was_open_when_a_worker_died_becomes_durable(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, _handle = opened(volume, b"f")
    volume.die()
    monkeypatch.setattr(Durable, "note", NOTE)
    volume.start(taken_over=True)
    volume.turn(int((AFTER + 2) / 0.002))
    assert not row(volume, ino).flags & Mark.UNSYNCED


def test_a_full_disk_does_not_keep_a_volume_from_being_mounted(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    ino, handle = opened(volume, b"f")
    volume.write(ino, handle, 0, b"changed")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(conflicts, "_write", full)
    lose_power(volume, monkeypatch)
    assert kept(volume) == ["f"]
