"""Kernels that refuse a backing file: a cache directory on a stacked file system, for one."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError
from csi_slayer.vfs.openops import LEFT
from csi_slayer.vfs.types import Opened, OpenFlags
from tests.unit.vfs.calls import Gate
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


def _open(volume: Volume, name: bytes) -> tuple[int, Opened]:
    entry, opened = volume.run(
        volume.fs.create(volume.request(), ROOT, name, 0o644, os.O_RDWR | os.O_CREAT)
    )
    assert entry.attr is not None
    return entry.attr.ino, opened


@pytest.mark.parametrize("step", ["opened", "released"])
def test_what_the_kernel_holds_for_a_killed_worker_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """It was killed in the middle of an open, or of a release: no handle tells of it any more."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600)
    fs = volume.fs
    kept = [_open(volume, name) for name in (b"a", b"b")]

    def killed(*_args: object) -> None:
        raise asyncio.CancelledError

    ino, opened = _open(volume, b"c")
    call: Coroutine[Any, Any, object]
    with monkeypatch.context() as patch:
        if step == "released":  # by no means the newest that there is
            kept += [_open(volume, b"d%d" % number) for number in range(LEFT)]
            call = fs.release(volume.request(), ino, opened.fh)
        else:
            volume.run(fs.release(volume.request(), ino, opened.fh))
            call = fs.open(volume.request(), ino, os.O_RDONLY)
            patch.setattr(fs.handles, "add", killed)
        patch.setattr(volume.kernel, "backing_close", killed)
        with pytest.raises(asyncio.CancelledError):
            volume.run(call)
    assert len(volume.kernel.backing) == len(kept) + 1
    volume.die()
    volume.start(taken_over=True)
    assert set(volume.kernel.backing) == {opened.backing_id for _ino, opened in kept}
    for ino, opened in kept:
        volume.write(ino, opened, 0, b"content")
        volume.run(volume.fs.flush(volume.request(), ino, opened.fh))
        volume.run(volume.fs.release(volume.request(), ino, opened.fh))
    assert not volume.kernel.backing
    volume.stop()
    assert volume.objects()["a"] == b"content"


def test_the_last_close_gives_back_what_an_upload_still_reads(tmp_path: Path) -> None:
    """A successor of a worker killed meanwhile would not know of it."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600, durability="fsync")
    ino, opened = _open(volume, b"a")
    volume.write(ino, opened, 0, b"content")

    async def release() -> None:
        fs = volume.fs
        gate = Gate(volume, "put")
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.catalog.get(ino)
        fs.spawn(fs.fsync(volume.request(), ino, opened.fh, False))
        await gate.reached.wait()
        await fs.release(volume.request(), ino, opened.fh)
        assert not volume.kernel.backing
        again = await fs.open(volume.request(), ino, os.O_RDWR)
        assert again.flags & OpenFlags.PASSTHROUGH
        gate.open.set()
        await fs.release(volume.request(), ino, again.fh)

    volume.run(release())
    volume.stop()
    assert volume.objects() == {"a": b"content"}
