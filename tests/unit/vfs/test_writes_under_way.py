"""The kernel writes passthrough files without us: a write may be half done when a file is sent."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import staged
from csi_slayer.content.staged import settled_mtime, wait_for_writes
from tests.unit.vfs.harness import Volume

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


def test_writes_of_one_tick_differ_where_times_are_coarse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13, or without multigrain times, all writes of a tick have one mtime."""
    with (tmp_path / "f").open("w+b") as file:
        tick = time.time_ns()
        os.utime(file.fileno(), ns=(tick, tick))
        monkeypatch.setattr(staged, "has_coarse_times", lambda _fd: True)
        assert settled_mtime(file.fileno()) == tick + 1
        os.utime(file.fileno(), ns=(tick, tick))  # as a write of this tick does
        monkeypatch.setattr(staged, "has_coarse_times", lambda _fd: False)
        assert settled_mtime(file.fileno()) == tick
        os.utime(file.fileno(), ns=(0, 10**18))
        monkeypatch.setattr(staged, "has_coarse_times", lambda _fd: True)
        assert settled_mtime(file.fileno()) == 10**18, "a tick that is over"
