"""Attributes that are written through to the objects are there for who comes without a catalog."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import metadata
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Attr, Request, SetAttr
from tests.unit.vfs.harness import DRAIN, Volume

WHEN = 1_222_222_222 * 10**9


def posix(directory: Path) -> Volume:
    return Volume(directory, passthrough=False, ttl=3600, posix=True)


def found(volume: Volume, parent: int, name: bytes) -> Attr:
    entry = volume.run(volume.fs.lookup(volume.request(), parent, name))
    assert entry.attr is not None
    return entry.attr


@pytest.mark.parametrize("wanted", [-1, -(2**33), 2**33, 2**34, -(2**34), 2**63 - 1])
def test_any_time_is_taken_the_nearest_that_can_be_kept(tmp_path: Path, wanted: int) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.run(volume.fs.mkdir(volume.request(), ROOT, b"d", 0o755))
    ino = found(volume, ROOT, b"d").ino
    second = 10**9
    changes = SetAttr(atime_ns=wanted * second, mtime_ns=wanted * second)
    volume.run(volume.fs.setattr(volume.request(), ino, changes))
    attr = found(volume, ROOT, b"d")
    nearest = max(-(2**63), min(wanted * second, 2**63 - 1))
    assert (attr.atime_ns, attr.mtime_ns) == (nearest, nearest)
    volume.stop()


def test_what_other_programs_say_of_an_object_stays(tmp_path: Path) -> None:
    """As of pictures, or the checksum that a copying program leaves: a chmod took it away."""
    volume = posix(tmp_path)
    store = volume.store
    volume.run(store.put("f", b"bytes", metadata={"title": "holiday", "mode": str(0o100600)}))
    attr = found(volume, ROOT, b"f")
    assert attr.mode == 0o100600
    for mode in (0o640, 0o644):
        volume.run(volume.fs.setattr(volume.request(), attr.ino, SetAttr(mode=mode)))
        volume.turn(50)
        stored = volume.run(store.head("f")).metadata
        assert stored["title"] == "holiday"
        assert stored["mode"] == str(0o100000 | mode)
    volume.stop()


def test_of_directories_and_symlinks(tmp_path: Path) -> None:
    volume = posix(tmp_path / "one")
    fs, request = volume.fs, volume.request
    volume.run(fs.mkdir(request(), ROOT, b"d", 0o755))
    ino = found(volume, ROOT, b"d").ino
    volume.turn(50)  # its mark is stored without them
    volume.run(fs.setattr(request(), ino, SetAttr(mode=0o1770, uid=1234, gid=4321)))
    volume.run(fs.setattr(request(), ino, SetAttr(mtime_ns=WHEN)))
    volume.run(fs.setxattr(request(), ino, b"user.b", b"value", 0))
    volume.run(fs.symlink(request(), ROOT, b"l", b"target"))
    link = found(volume, ROOT, b"l").ino
    volume.turn(50)
    volume.run(fs.setattr(request(), link, SetAttr(uid=7, gid=8, mtime_ns=WHEN)))
    volume.stop()

    other = posix(tmp_path / "two")
    other.store.bucket = other.bucket = volume.bucket
    directory = found(other, ROOT, b"d")
    assert (directory.uid, directory.gid) == (1234, 4321)
    assert stat.S_IMODE(directory.mode) == 0o1770
    assert directory.mtime_ns == WHEN
    value = other.run(other.fs.getxattr(other.request(), directory.ino, b"user.b"))
    assert value == b"value"
    attr = found(other, ROOT, b"l")
    assert stat.S_ISLNK(attr.mode)
    assert (attr.uid, attr.gid, attr.mtime_ns) == (7, 8, WHEN)
    assert other.run(other.fs.readlink(other.request(), attr.ino)) == b"target"
    other.stop()


def test_of_a_directory_that_has_no_mark(tmp_path: Path) -> None:
    volume = posix(tmp_path)
    volume.run(volume.store.put("d/f", b"1"))
    before = volume.store.heads
    directory = found(volume, ROOT, b"d")
    assert stat.S_IMODE(directory.mode) == 0o755
    found(volume, ROOT, b"d")
    assert volume.store.heads == before + 1, "it is looked for once"
    volume.stop()


def test_of_a_removed_directory_while_it_is_open(tmp_path: Path) -> None:
    volume = posix(tmp_path)
    fs, request = volume.fs, volume.request
    inos = {}
    for name in (b"a", b"b", b"c"):
        volume.run(fs.mkdir(request(), ROOT, name, 0o750))
        inos[name] = found(volume, ROOT, name).ino
    volume.run(fs.rmdir(request(), ROOT, b"a"))
    volume.run(fs.rename(request(), ROOT, b"c", ROOT, b"b", 0))
    for name in (b"a", b"b"):
        attr, _ttl = volume.run(fs.getattr(request(), inos[name], None))
        assert (attr.nlink, stat.S_IMODE(attr.mode)) == (0, 0o750)
        volume.run(fs.setattr(request(), inos[name], SetAttr(mode=0o700, uid=7, mtime_ns=8)))
        attr, _ttl = volume.run(fs.getattr(request(), inos[name], None))
        assert (attr.nlink, attr.mode, attr.uid) == (0, stat.S_IFDIR | 0o700, 7)
        assert attr.mtime_ns == 8
        fs.forget(inos[name], 1)
        with pytest.raises(FsError):
            volume.run(fs.getattr(request(), inos[name], None))
    volume.stop()


@pytest.mark.parametrize("size", [100_000, 3 << 20])
@pytest.mark.parametrize("dies", [False, True])
def test_a_reader_of_an_object_whose_attributes_are_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, dies: bool
) -> None:
    """The copy that writes them makes another version of the object. That is no reason to fail a
    reader who has not fetched all of it, not even if nobody lived to note the version."""
    volume = posix(tmp_path)
    body = os.urandom(size)
    volume.run(volume.store.put("f", body))
    attr = found(volume, ROOT, b"f")
    opened = volume.run(volume.fs.open(volume.request(), attr.ino, os.O_RDONLY))
    copy, goes_on = volume.store.copy, asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        info = await copy(*args, **kwargs)
        await goes_on.wait()
        return info

    monkeypatch.setattr(volume.store, "copy", slow)
    changes = SetAttr(mode=0o600)
    before = volume.run(volume.store.head("f")).etag
    volume.run(volume.fs.setattr(volume.request(), attr.ino, changes))
    volume.turn(50)
    assert volume.run(volume.store.head("f")).etag != before
    if dies:
        volume.die()
        volume.start(taken_over=True)
    else:
        volume.loop.call_later(1.0, goes_on.set)
    assert volume.read(attr.ino, opened, 0, size) == body
    volume.stop()
    assert volume.objects() == {"f": body}
    assert int(volume.bucket.objects["f"].metadata["mode"]) & 0o777 == 0o600
    assert volume.events.conflicts == 0


def test_a_reader_is_told_if_somebody_else_changed_the_object(tmp_path: Path) -> None:
    volume = posix(tmp_path)
    volume.run(volume.store.put("f", b"1" * (3 << 20)))
    attr = found(volume, ROOT, b"f")
    opened = volume.run(volume.fs.open(volume.request(), attr.ino, os.O_RDONLY))
    volume.run(volume.store.put("f", b"2" * (3 << 20)))
    volume.run(volume.fs.setattr(volume.request(), attr.ino, SetAttr(mode=0o600)))
    with pytest.raises(FsError) as caught:
        volume.read(attr.ino, opened, 0, 10)
    assert caught.value.errno == errno.ESTALE
    volume.stop()
    assert volume.objects() == {"f": b"2" * (3 << 20)}


def test_trusted_attributes_are_named_to_root_alone(tmp_path: Path) -> None:
    """As local file systems do: who copies all attributes cannot read these."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.run(volume.fs.mkdir(volume.request(), ROOT, b"d", 0o755))
    ino = found(volume, ROOT, b"d").ino
    for name in (b"trusted.a", b"user.a"):
        volume.run(volume.fs.setxattr(volume.request(), ino, name, b"value", 0))
    somebody = volume.request()._replace(uid=1000)
    assert volume.run(volume.fs.listxattr(somebody, ino)) == [b"user.a"]
    assert set(volume.run(volume.fs.listxattr(volume.request(), ino))) == {b"trusted.a", b"user.a"}
    volume.stop()


@pytest.mark.parametrize("removed", [False, True])
def test_an_xattr_that_a_killed_worker_only_wrote_down_comes_to_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """It is set, and the change sent again is not made again; the object has to follow still."""
    volume = posix(tmp_path)
    volume.run(volume.store.put("f", b"content"))
    ino = found(volume, ROOT, b"f").ino
    if removed:
        volume.run(volume.fs.setxattr(volume.request(), ino, b"user.a", b"value", 0))
        assert volume.run(volume.fs.drain(DRAIN)) == 0

    async def killed(*_args: object) -> None:
        raise asyncio.CancelledError

    request = volume.request()

    def change(req: Request) -> Coroutine[Any, Any, None]:
        if removed:
            return volume.fs.removexattr(req, ino, b"user.a")
        return volume.fs.setxattr(req, ino, b"user.a", b"value", 0)

    with monkeypatch.context() as patch:
        patch.setattr(volume.fs, "_xattrs_changed", killed)
        with pytest.raises(asyncio.CancelledError):
            volume.run(change(request))
    volume.die()
    volume.start(taken_over=True)
    volume.run(change(request._replace(resent=True)))
    volume.stop()
    values = metadata.decode_xattrs(volume.bucket.objects["f"].metadata)
    assert values == ({} if removed else {b"user.a": b"value"})
