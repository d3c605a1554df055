"""The kernel writes passthrough files without us: a write may be half done when a file is sent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import filesystem
from csi_slayer.cache.filesystem import file_system
from csi_slayer.catalog import ROOT
from csi_slayer.content import settling
from csi_slayer.content.settling import is_at_rest, settled_mtime, wait_for_writes
from csi_slayer.errors import AccessDenied
from csi_slayer.store.base import ObjectInfo
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import MemoryStore

MIB = 1 << 20


class LongWrite:
    """One call of write(2) that has begun, and has not ended yet."""

    def __init__(self, fd: int, data: bytes) -> None:
        before = os.fstat(fd).st_mtime_ns
        self._thread = threading.Thread(target=os.pwrite, args=(fd, data, 0))
        self._thread.start()
        while os.fstat(fd).st_mtime_ns == before:
            time.sleep(0)
        self.begun = os.fstat(fd)

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        self._thread.join()


def test_a_write_sets_the_time_before_its_bytes_are_there(tmp_path: Path) -> None:
    """What all of this is for; and that waiting helps."""
    with (tmp_path / "f").open("w+b") as file:
        write = LongWrite(file.fileno(), bytes(256 * MIB))
        assert write.under_way and write.begun.st_size < 256 * MIB
        wait_for_writes(file.fileno())
        found = os.fstat(file.fileno())
        assert (found.st_size, found.st_mtime_ns) == (256 * MIB, write.begun.st_mtime_ns)
        write.end()


def test_whether_one_is_under_way_is_seen_without_waiting(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b") as file:
        fd = file.fileno()
        if file_system(fd) not in (filesystem.EXT4, filesystem.XFS):
            assert not is_at_rest(fd), "nothing is certain on other file systems"
            return
        assert is_at_rest(fd), "an empty file"
        os.pwrite(fd, bytes(5000), 0)
        before = os.stat(fd)
        assert is_at_rest(fd), "one that is not on the disk yet"
        write = LongWrite(fd, bytes(256 * MIB))
        assert not is_at_rest(fd) or not write.under_way
        begun = time.monotonic()
        seen = [is_at_rest(fd) for _ in range(10)]
        assert write.under_way and not any(seen), time.monotonic() - begun
        write.end()
        assert is_at_rest(fd)
        assert os.stat(fd).st_atime_ns == before.st_atime_ns


def test_nothing_is_certain_where_nothing_is_known_of_the_locks() -> None:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        assert not is_at_rest(file.fileno())


@pytest.mark.parametrize("others", [0, 1])
def test_a_file_that_is_sent_during_a_write_is_sent_whole(tmp_path: Path, others: int) -> None:
    """Whoever closes the file meanwhile."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    ino = entry.attr.ino
    more = [volume.run(fs.open(volume.request(), ino, os.O_RDWR)) for _ in range(others)]
    data = os.urandom(MIB) * 128
    write = LongWrite(volume.kernel.backing[opened.backing_id], data)
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    write.end()
    for handle in [opened, *more]:
        volume.run(fs.flush(volume.request(), ino, handle.fh))
        assert volume.objects()["f"] == data
        volume.run(fs.release(volume.request(), ino, handle.fh))
    volume.stop()
    assert volume.objects()["f"] == data


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_DIRECT])
def test_writes_past_the_page_cache_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int
) -> None:
    """They may share the lock with whoever looks: also after a take-over."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    waited = list[int]()
    monkeypatch.setattr(settling, "is_at_rest", lambda _fd: True)
    monkeypatch.setattr(settling, "wait_for_writes", waited.append)
    entry, opened = volume.run(volume.fs.create(volume.request(), ROOT, b"f", 0o644, flags))
    assert entry.attr is not None
    for content in b"first", b"second":
        os.pwrite(volume.kernel.backing[opened.backing_id], content, 0)
        waited.clear()
        volume.run(volume.fs.flush(volume.request(), entry.attr.ino, opened.fh))
        assert volume.objects()["f"] == content
        assert bool(waited) == bool(flags & os.O_DIRECT)
        volume.die()
        volume.start(taken_over=True)
    volume.stop()


class LateWrite:
    """Bytes that come after their mtime and without a lock, as of an asynchronous write past the
    page cache."""

    def __init__(self, volume: Volume, flags: int = os.O_RDWR | os.O_DIRECT) -> None:
        self.volume = volume
        name = volume.fs.create(volume.request(), ROOT, b"f", 0o644, flags)
        entry, self.opened = volume.run(name)
        assert entry.attr is not None
        self.ino = entry.attr.ino
        os.pwrite(self.fd, b"early", 0)

    @property
    def fd(self) -> int:
        return self.volume.kernel.backing[self.opened.backing_id]

    def come(self) -> None:
        before = os.fstat(self.fd)
        os.pwrite(self.fd, b"later", 0)
        os.utime(self.fd, ns=(before.st_atime_ns, before.st_mtime_ns))

    def flush(self) -> None:
        self.volume.run(self.volume.fs.flush(self.volume.request(), self.ino, self.opened.fh))

    def release(self) -> None:
        self.volume.run(self.volume.fs.release(self.volume.request(), self.ino, self.opened.fh))


@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("reader", [False, True])
def test_bytes_that_came_past_the_page_cache_after_they_were_sent(
    tmp_path: Path, taken_over: bool, reader: bool
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    write = LateWrite(volume)
    if reader:
        volume.run(volume.fs.open(volume.request(), write.ino, os.O_RDONLY))
    write.flush()
    assert volume.objects()["f"] == b"early"
    if taken_over:
        volume.die()
        volume.start(taken_over=True)
    write.come()
    write.flush()  # of another descriptor: nothing tells of them
    write.release()
    volume.run(asyncio.sleep(60))
    assert volume.objects()["f"] == b"later"
    volume.stop()


def test_bytes_that_came_past_the_page_cache_at_the_last_close_of_one_being_sent(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    write = LateWrite(volume)
    put = MemoryStore.put

    async def release(store: MemoryStore, *args: Any, **kwargs: Any) -> ObjectInfo:
        patch.undo()
        info = await put(store, *args, **kwargs)
        write.come()
        await volume.fs.release(volume.request(), write.ino, write.opened.fh)
        return info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStore, "put", release)
        write.flush()
    volume.run(asyncio.sleep(60))
    assert volume.objects()["f"] == b"later"
    volume.stop()


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_DIRECT])
def test_what_was_sent_is_not_sent_again_if_no_bytes_came_after_it(
    tmp_path: Path, flags: int
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    write = LateWrite(volume, flags)
    write.flush()
    etag = volume.bucket.objects["f"].etag
    write.release()
    volume.run(asyncio.sleep(60))
    assert volume.bucket.objects["f"].etag == etag
    inode = volume.run(volume.fs.catalog.get(write.ino))
    assert inode.stage is None, "it is a segment now"
    assert not volume.run(volume.fs.catalog.pendings_around("f", 10))
    assert not volume.fs.content.objects.unsure
    volume.stop()


def test_the_time_of_the_same_bytes_written_again_is_stored(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600, posix=True, durability="fsync")
    write = LateWrite(volume)
    volume.run(volume.fs.fsync(volume.request(), write.ino, write.opened.fh, False))
    os.pwrite(write.fd, b"early", 0)
    os.utime(write.fd, ns=(0, 1_900_000_000 * 10**9))  # as that of a later write
    write.release()
    volume.run(asyncio.sleep(60))
    assert volume.bucket.objects["f"].metadata["mtime"] == "1900000000.000000000"
    volume.stop()


def test_writes_of_one_tick_differ_where_times_are_coarse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13, or without multigrain times, all writes of a tick have one mtime."""
    with (tmp_path / "f").open("w+b") as file:
        tick = time.time_ns()
        os.utime(file.fileno(), ns=(tick, tick))
        monkeypatch.setattr(settling, "has_coarse_times", lambda _fd: True)
        assert tick < settled_mtime(file.fileno()) < time.time_ns()
        os.utime(file.fileno(), ns=(tick, tick))  # as a write of this tick does
        monkeypatch.setattr(settling, "has_coarse_times", lambda _fd: False)
        assert settled_mtime(file.fileno()) == tick
        os.utime(file.fileno(), ns=(0, 10**18))
        monkeypatch.setattr(settling, "has_coarse_times", lambda _fd: True)
        assert settled_mtime(file.fileno()) == 10**18, "a tick that is over"


def test_what_was_written_in_the_tick_of_what_was_sent_before_is_sent_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "has_coarse_times", lambda _fd: True)
    monkeypatch.setattr(settling, "TICK", 100 * 10**9)  # however long this takes
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    entry, opened = volume.run(volume.fs.create(volume.request(), ROOT, b"f", 0o644, os.O_RDWR))
    assert entry.attr is not None
    fd, tick = volume.kernel.backing[opened.backing_id], time.time_ns()
    put = MemoryStore.put

    async def refuse(store: MemoryStore, *args: Any, **kwargs: Any) -> ObjectInfo:
        monkeypatch.setattr(MemoryStore, "put", put)
        raise AccessDenied("once")

    def write(data: bytes) -> None:
        os.pwrite(fd, data, 0)
        os.utime(fd, ns=(tick, tick))

    def flush() -> None:
        volume.run(volume.fs.flush(volume.request(), entry.attr.ino, opened.fh))

    write(b"first")
    flush()
    write(b"later")
    monkeypatch.setattr(MemoryStore, "put", refuse)
    with pytest.raises(AccessDenied):
        flush()
    flush()
    assert volume.objects()["f"] == b"later"
    volume.stop()


@pytest.mark.integration  # mounts: as root
@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_times_are_coarse_where_two_writes_have_the_same(tmp_path: Path, kind: str) -> None:
    """A disk that is mounted as ext3 looks like ext4, and has no multigrain times."""
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run([f"mkfs.{kind}", "-q", "-F", "-I", "256", image], check=True)
    subprocess.run(["mount", "-t", kind, "-o", "loop", image, disk], check=True)
    filesystem.kind_of.cache_clear()  # the one before had the same device
    try:
        with (disk / "f").open("wb", buffering=0) as file:
            times = []
            for _ in range(2000):
                file.write(b"x")
                times.append(os.fstat(file.fileno()).st_mtime_ns)
            assert settling.has_coarse_times(file.fileno()) or len(set(times)) == len(times)
            assert settling.has_coarse_times(file.fileno()) == (
                kind != "ext4" or settling._RELEASE < settling._FINE_SINCE
            )
    finally:
        subprocess.run(["umount", disk], check=True)
