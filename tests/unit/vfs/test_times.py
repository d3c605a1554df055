"""Times that are set while a file changes its place on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from csi_slayer.catalog import ROOT
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.harness import Volume

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
