"""Times that are set while a file changes its place on the disk."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.vfs.nameops import RENAME_EXCHANGE
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import create
from tests.unit.vfs.harness import DRAIN, Volume

HOUR = 3600.0


def test_times_of_a_file_that_is_just_becoming_a_segment(tmp_path: Path) -> None:
    """A thread has moved the staged copy already, and the table does not know it yet."""
    volume = Volume(tmp_path, passthrough=True, ttl=HOUR, durability="writeback")
    fs = volume.fs
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"a", 0o644, flags))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.write(ino, opened, 0, b"content")
    volume.run(fs.release(volume.request(), ino, opened.fh))
    inode = volume.run(fs.catalog.get(ino))
    assert inode.stage is not None
    staged = fs.content.staging.path(inode.stage)
    moved = staged.with_name("moved")
    staged.rename(moved)
    attr, _ttl = volume.run(fs.setattr(volume.request(), ino, SetAttr(mtime_ns=5_000_000_000)))
    assert attr.mtime_ns == 5_000_000_000
    moved.rename(staged)
    volume.stop()


def test_swapped_names_change_the_times_of_their_directories(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=HOUR)
    fs = volume.fs
    inos = []
    for name in (b"one", b"two"):
        entry = volume.run(fs.mkdir(volume.request(), ROOT, name, 0o755))
        assert entry.attr is not None
        inos.append(entry.attr.ino)
        volume.run(fs.mkdir(volume.request(), entry.attr.ino, b"d", 0o755))
        volume.run(fs.setattr(volume.request(), entry.attr.ino, SetAttr(mtime_ns=1)))
    one, two = inos
    volume.run(fs.rename(volume.request(), one, b"d", two, b"d", RENAME_EXCHANGE))
    for ino in inos:
        assert volume.run(fs.catalog.get(ino)).mtime_ns > 1
    volume.stop()


@pytest.mark.parametrize("resent", [False, True])
def test_a_time_set_back_by_a_worker_that_is_killed_hides_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resent: bool
) -> None:
    """The staged copy has the time at which it was what the store has, and other bytes."""
    volume = Volume(tmp_path, passthrough=True, ttl=HOUR, durability="writeback")
    fs = volume.fs
    ino = volume.run(create(volume, b"a", b"before"))
    assert volume.run(fs.drain(DRAIN)) == 0
    opened = volume.run(fs.open(volume.request(), ino, os.O_RDWR))
    clean = volume.run(fs.catalog.get(ino)).stamp
    assert clean is not None
    volume.write(ino, opened, 0, b"change")
    request, changes = volume.request(), SetAttr(mtime_ns=clean)
    touch = fs._touch_stage

    async def killed(*args: Any) -> None:
        await touch(*args)
        raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(fs, "_touch_stage", killed)
        with pytest.raises(asyncio.CancelledError):
            volume.run(fs.setattr(request, ino, changes))
    volume.die()
    volume.start(taken_over=True)
    fs = volume.fs
    if resent:
        volume.run(fs.setattr(request._replace(resent=True), ino, changes))
    volume.run(fs.release(volume.request(), ino, opened.fh))
    volume.stop()
    assert volume.objects() == {"a": b"change"}


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("durability", ["close", "writeback"])
def test_a_write_changes_both_times_for_good(
    tmp_path: Path, durability: str, passthrough: bool
) -> None:
    """Of a file that is not staged any more the table alone tells them, and a backup looks at the
    time of the status: mtime can be set."""
    volume = Volume(tmp_path, passthrough=passthrough, ttl=HOUR, durability=durability)
    fs = volume.fs
    ino = volume.run(create(volume, b"f", b"1"))
    assert volume.run(fs.drain(DRAIN)) == 0
    volume.turn(30)

    async def write() -> None:
        await fs.catalog.update(ino, ctime_ns=1)
        opened = await fs.open(volume.request(), ino, os.O_RDWR)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"2"))
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        assert await fs.drain(DRAIN) == 0

    volume.run(write())
    volume.turn(30)
    assert volume.run(fs.catalog.get(ino)).stage is None
    attr, _ttl = volume.run(fs.getattr(volume.request(), ino, None))
    assert 1 < attr.mtime_ns == attr.ctime_ns
    volume.stop()
