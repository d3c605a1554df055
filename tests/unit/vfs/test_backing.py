"""Kernels that refuse a backing file: a cache directory on a stacked file system, for one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import OpenFlags
from tests.unit.vfs.harness import Volume


def test_a_file_that_the_kernel_does_not_take_is_served_by_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)

    def refuse(fd: int) -> int:
        raise FsError(errno.ELOOP)

    monkeypatch.setattr(volume.kernel, "backing_open", refuse)
    fs = volume.fs
    entry, opened = volume.run(fs.create(volume.request(), ROOT, b"a", 0o644, os.O_RDWR))
    assert entry.attr is not None
    again = volume.run(fs.open(volume.request(), entry.attr.ino, os.O_RDONLY))
    volume.write(entry.attr.ino, opened, 0, b"content")
    assert volume.read(entry.attr.ino, again, 0, 100) == b"content"
    for handle in (opened, again):
        assert not handle.flags & (OpenFlags.PASSTHROUGH | OpenFlags.DIRECT_IO)
        volume.run(fs.flush(volume.request(), entry.attr.ino, handle.fh))
        volume.run(fs.release(volume.request(), entry.attr.ino, handle.fh))
    volume.stop()
    assert volume.objects() == {"a": b"content"}
