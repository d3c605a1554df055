"""Names whose keys the store could not hold are refused when they are made."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def test_a_key_that_would_be_too_long(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, request = volume.fs, volume.request
    parent = ROOT
    for _ in range(5):  # 5 * 201 bytes
        entry = volume.run(fs.mkdir(request(), parent, b"d" * 200, 0o755))
        assert entry.attr is not None
        parent = entry.attr.ino
    fits = 1024 - 5 * 201 - 1
    entry, opened = volume.run(fs.create(request(), parent, b"f" * fits, 0o644, os.O_RDWR))
    assert entry.attr is not None
    volume.run(fs.release(request(), entry.attr.ino, opened.fh))
    long = b"f" * (fits + 1)
    for call in (
        lambda: fs.create(request(), parent, long, 0o644, os.O_RDWR),
        lambda: fs.mkdir(request(), parent, long, 0o755),
        lambda: fs.symlink(request(), parent, long, b"target"),
        lambda: fs.rename(request(), parent, b"f" * fits, parent, long, 0),
    ):
        with pytest.raises(FsError) as refused:
            volume.run(call())
        assert refused.value.errno == errno.ENAMETOOLONG
    volume.stop()
    assert max(map(len, volume.objects())) <= 1024


def test_a_target_that_the_metadata_of_an_object_could_not_hold(tmp_path: Path) -> None:
    """What is not plain ASCII takes three bytes there, and extended attributes take of the same."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, request = volume.fs, volume.request
    with pytest.raises(FsError) as refused:
        volume.run(fs.symlink(request(), ROOT, b"a", "\u00fc".encode() * 301))
    assert refused.value.errno == errno.ENAMETOOLONG
    volume.run(fs.symlink(request(), ROOT, b"a", "\u00fc".encode() * 300))
    entry = volume.run(fs.symlink(request(), ROOT, b"b", b"x" * 1024))
    assert entry.attr is not None
    ino = entry.attr.ino
    volume.run(fs.setxattr(request(), ino, b"trusted.a", b"x" * 300, 0))
    with pytest.raises(FsError) as refused:
        volume.run(fs.setxattr(request(), ino, b"trusted.b", b"x" * 300, 0))
    assert refused.value.errno == errno.ENOSPC
    volume.stop()


def test_a_mark_with_content_is_left_alone(tmp_path: Path) -> None:
    """Somebody's object ``d/`` with bytes shows as a directory; it is neither replaced nor
    deleted."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=True)
    fs, request = volume.fs, volume.request
    for key in ("a/", "b/", "c/"):
        volume.bucket.objects[key] = Blob(b"precious", f'"{key}"', 10**18, {})
    inos = {}
    for name in (b"a", b"b", b"c"):
        entry = volume.run(fs.lookup(request(), ROOT, name))
        assert entry.attr is not None
        inos[name] = entry.attr.ino
    volume.run(fs.rmdir(request(), ROOT, b"a"))
    volume.run(fs.rename(request(), ROOT, b"b", ROOT, b"moved", 0))
    volume.run(fs.setattr(request(), inos[b"c"], SetAttr(mode=0o700)))
    volume.stop()
    assert volume.objects() == {
        "a/": b"precious", "b/": b"precious", "c/": b"precious", "moved/": b"",
    }  # fmt: skip
