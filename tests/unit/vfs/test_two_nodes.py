"""Two nodes, each with its own cache and catalog, on one bucket."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from csi_slayer.catalog import ROOT
from csi_slayer.store.base import ObjectInfo
from csi_slayer.store.write_token import WRITE_TOKEN
from tests.unit.vfs import calls
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def _nodes(tmp_path: Path, *, posix: bool) -> tuple[Volume, Volume]:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one = Volume(tmp_path / "one", passthrough=False, ttl=0, posix=posix)
    other = Volume(tmp_path / "other", passthrough=False, ttl=0, posix=posix)
    other.bucket = other.store.bucket = one.bucket
    return one, other


async def _look(volume: Volume, name: bytes) -> int:
    entry = await volume.fs.lookup(volume.request(), ROOT, name)
    assert entry.attr is not None
    return entry.attr.ino


async def _rewrite(volume: Volume, ino: int, data: bytes) -> None:
    fs = volume.fs
    opened = await fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
    await fs.write(volume.request(), ino, opened.fh, 0, memoryview(data))
    await fs.flush(volume.request(), ino, opened.fh)
    await fs.release(volume.request(), ino, opened.fh)


@pytest.mark.parametrize("posix", [False, True])
def test_an_attribute_that_the_other_node_removed_does_not_come_back(
    tmp_path: Path, posix: bool
) -> None:
    one, other = _nodes(tmp_path, posix=posix)
    ino = one.run(calls.create(one, b"f", b"1"))
    one.run(one.fs.setxattr(one.request(), ino, b"user.k", b"v", 0))
    one.run(_rewrite(one, ino, b"2"))

    there = other.run(_look(other, b"f"))
    other.run(other.fs.removexattr(other.request(), there, b"user.k"))
    other.run(_rewrite(other, there, b"3"))

    ino = one.run(_look(one, b"f"))
    assert one.run(calls.read(one, ino)) == b"3"
    assert one.run(one.fs.listxattr(one.request(), ino)) == []
    one.run(_rewrite(one, ino, b"4"))
    assert "slayerfs-xattrs" not in one.bucket.objects["f"].metadata
    one.stop()
    other.stop()


def test_a_late_answer_about_an_old_version_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    one, other = _nodes(tmp_path, posix=False)
    there = other.run(calls.create(other, b"f", b"1"))
    other.run(other.fs.setxattr(other.request(), there, b"user.k", b"v", 0))
    other.run(_rewrite(other, there, b"2"))

    async def meet() -> int:
        ino = await _look(one, b"f")
        gate = calls.Gate(one, "head", after=True)
        known = asyncio.create_task(one.fs.known(await one.catalog.get(ino)))
        await gate.reached.wait()
        gate.remove()
        # Both nodes' calls in one loop: what the other node would do.
        await one.store.put("f", b"new", metadata={})
        await _look(one, b"f")
        gate.open.set()
        await known
        return ino

    ino = one.run(meet())
    assert one.run(one.fs.listxattr(one.request(), ino)) == []
    one.stop()
    other.stop()


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("later_ns", [0, 999_999_999, 1_000_000_000])
def test_a_link_made_here_that_the_other_node_makes_anew_is_seen(
    tmp_path: Path, renamed: bool, later_ns: int
) -> None:
    """All links have the version of an empty object; that ours was stored is told without a
    fraction of the second, so that what is less than one later may be ours."""
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    fs = volume.fs

    async def scenario() -> None:
        await fs.symlink(volume.request(), ROOT, b"new", b"ours")
        if renamed:
            assert await fs.drain(2.0) == 0
            await fs.rename(volume.request(), ROOT, b"new", ROOT, b"link", 0)
        assert await fs.drain(2.0) == 0
        name = "link" if renamed else "new"
        made = await volume.catalog.child(ROOT, name)
        assert made is not None
        blob, theirs = volume.bucket.objects[name], later_ns >= 1_000_000_000
        if theirs:
            blob.metadata.update({"slayerfs-target": "theirs", WRITE_TOKEN: "another"})
        blob.mtime_ns += later_ns
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        now = await _look(volume, name.encode())
        assert (now != made.ino) is theirs
        assert await fs.readlink(volume.request(), now) == (b"theirs" if theirs else b"ours")

    volume.run(scenario())
    volume.stop()


@pytest.mark.parametrize("later_s", [1, 2])
def test_a_lock_file_stays_the_same_whose_write_was_dated_a_second_early(
    tmp_path: Path, later_s: int
) -> None:
    """versitygw dates its answers up to a second early, and its objects in whole seconds. Who
    opens a lock file that is held must get the same inode, or both have the lock."""
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    fs = volume.fs

    async def scenario() -> None:
        await calls.create(volume, b"lock", b"")
        assert await fs.drain(2.0) == 0
        made = await _look(volume, b"lock")
        held = await fs.open(volume.request(), made, os.O_RDONLY)
        second = 1_000_000_000
        dated_ns = volume.bucket.objects["lock"].mtime_ns // second * second
        await volume.catalog.update(made, stamp=-dated_ns)
        volume.bucket.objects["lock"].mtime_ns = dated_ns + later_s * second
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        assert (await _look(volume, b"lock") == made) is (later_s < 2)
        await fs.release(volume.request(), made, held.fh)

    volume.run(scenario())
    volume.stop()


@pytest.mark.parametrize("durability", ["close", "fsync"])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("later_ns", [999_999_999, 1_000_000_000])
def test_a_link_in_the_place_of_an_empty_file_that_was_written_here_is_seen(
    tmp_path: Path, durability: str, renamed: bool, later_ns: int
) -> None:
    """Also before another listing has told the file's time in the store."""
    volume = Volume(tmp_path, passthrough=False, ttl=0, durability=durability)
    fs = volume.fs

    async def scenario() -> None:
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        await calls.create(volume, b"new", b"")
        if renamed:
            await fs.rename(volume.request(), ROOT, b"new", ROOT, b"e", 0)
        assert await fs.drain(2.0) == 0
        await asyncio.sleep(1)
        name = "e" if renamed else "new"
        made = await volume.catalog.child(ROOT, name)
        assert made is not None and made.stage is None
        blob, theirs = volume.bucket.objects[name], later_ns >= 1_000_000_000
        if theirs:
            link = {"mode": str(stat.S_IFLNK | 0o777), "slayerfs-target": "theirs"}
            blob.metadata.update({**link, WRITE_TOKEN: "another"})
        blob.mtime_ns += later_ns
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        entry = await fs.lookup(volume.request(), ROOT, name.encode())
        assert entry.attr is not None and stat.S_ISLNK(entry.attr.mode) is theirs
        if theirs:
            assert await fs.readlink(volume.request(), entry.attr.ino) == b"theirs"
        else:
            assert entry.attr.ino == made.ino
            assert await calls.read(volume, made.ino) == b""

    volume.run(scenario())
    volume.stop()


def _theirs(kind: str) -> Blob:
    """What another node has made: of 3 bytes, or empty and what its metadata says."""
    if kind == "file":
        return Blob(b"abc", '"theirs"', 10**18, {})
    mode = {"link": stat.S_IFLNK | 0o777, "fifo": stat.S_IFIFO | 0o644}[kind]
    target = {"slayerfs-target": "theirs"} if kind == "link" else {}
    return Blob(b"", '"theirs"', 10**18, {"mode": str(mode), **target})


@pytest.mark.parametrize("theirs", ["file", "link", "fifo"])
@pytest.mark.parametrize("ours", ["link", "fifo"])
def test_a_link_or_fifo_that_lost_a_race_is_what_the_other_node_made(
    tmp_path: Path, ours: str, theirs: str
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        volume.bucket.objects["f"] = _theirs(theirs)
        if ours == "link":
            await fs.symlink(volume.request(), ROOT, b"f", b"ours")
        else:
            await fs.mknod(volume.request(), ROOT, b"f", stat.S_IFIFO | 0o644, 0)
        assert await fs.drain(2.0) == 0
        entry = await fs.lookup(volume.request(), ROOT, b"f")
        assert entry.attr is not None
        kinds = {"file": stat.S_IFREG, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO}
        assert stat.S_IFMT(entry.attr.mode) == kinds[theirs]
        if theirs == "file":
            assert await calls.read(volume, entry.attr.ino) == b"abc"
        if theirs == "link":
            assert await fs.readlink(volume.request(), entry.attr.ino) == b"theirs"

    with capture_logs() as lines:
        volume.run(scenario())
    assert [line["kept_at"] for line in lines if line["event"] == "conflict"] == [None]
    volume.stop()
    assert volume.bucket.objects["f"].etag == '"theirs"'
    assert volume.events.conflicts == 1


@pytest.mark.parametrize("how", ["lookup", "readdir"])
def test_what_a_link_lost_its_race_to_is_seen_at_once(tmp_path: Path, how: str) -> None:
    """Also by a listing before the next look at the key, or one that had begun before."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def make() -> None:
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        volume.bucket.objects["f"] = _theirs("file")
        await fs.symlink(volume.request(), ROOT, b"f", b"ours")

    async def look() -> None:
        if how == "readdir":
            names = await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
            assert b"f" in [item.name for item in names]
            assert await fs.drain(2.0) == 0
        assert await calls.read(volume, await _look(volume, b"f")) == b"abc"

    volume.run(make())
    while not volume.events.conflicts:
        volume.turn(1)
    volume.run(look())
    volume.stop()
    assert volume.bucket.objects["f"].etag == '"theirs"'


def test_a_link_that_is_renamed_while_it_loses_its_race_is_stored_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, put = volume.fs, volume.store.put

    async def rename_meanwhile(key: str, *args: Any, **options: Any) -> ObjectInfo:
        if key == "f":
            await fs.rename(volume.request(), ROOT, b"f", ROOT, b"g", 0)
        return await put(key, *args, **options)

    async def scenario() -> None:
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        volume.bucket.objects["f"] = _theirs("file")
        await fs.symlink(volume.request(), ROOT, b"f", b"ours")
        assert await fs.drain(2.0) == 0
        assert await fs.readlink(volume.request(), await _look(volume, b"g")) == b"ours"

    monkeypatch.setattr(volume.store, "put", rename_meanwhile)
    volume.run(scenario())
    volume.stop()
    assert volume.bucket.objects["f"].etag == '"theirs"'
    assert volume.bucket.objects["g"].metadata["slayerfs-target"] == "ours"
    assert volume.events.conflicts == 0
