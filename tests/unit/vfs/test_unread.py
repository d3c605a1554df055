"""What only metadata can tell is read ahead of who looks at one name after the other."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import StoreUnavailable
from csi_slayer.store.base import ObjectInfo
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore

FIFO = {"mode": str(stat.S_IFIFO | 0o600)}
COUNT = 60


class Watched:
    """How many requests for metadata are under way; those for ``fails`` fail, those for ``hangs``
    are never answered."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self.fails: set[str] = set()
        self.hangs: set[str] = set()
        head = MemoryStore.head

        async def watched(store: MemoryStore, key: str) -> ObjectInfo:
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                if key in self.fails:
                    raise StoreUnavailable(key)
                if key in self.hangs:
                    await asyncio.get_running_loop().create_future()
                return await head(store, key)
            finally:
                self.now -= 1

        patch.setattr(MemoryStore, "head", watched)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def _volume(path: Path) -> Volume:
    volume = Volume(path, passthrough=False, ttl=3600)
    for number in range(COUNT):
        metadata = FIFO if number % 2 else {}
        volume.bucket.objects[f"f{number:03}"] = Blob(b"", '"1"', 10**18, dict(metadata))
    return volume


def _kind(volume: Volume, number: int) -> int:
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"f%03d" % number))
    assert entry.attr is not None
    return stat.S_IFMT(entry.attr.mode)


def test_names_in_order_are_read_ahead_each_once(tmp_path: Path, watched: Watched) -> None:
    volume = _volume(tmp_path)
    for number in range(COUNT):
        assert _kind(volume, number) == (stat.S_IFIFO if number % 2 else stat.S_IFREG)
    assert volume.store.heads == COUNT
    assert watched.most >= 8
    volume.stop()


def test_names_here_and_there_are_not(tmp_path: Path, watched: Watched) -> None:
    volume = _volume(tmp_path)
    for number in range(COUNT - 1, 0, -7):
        _kind(volume, number)
    assert volume.store.heads == len(range(COUNT - 1, 0, -7))
    assert watched.most == 1
    volume.stop()


def test_nothing_is_read_ahead_where_that_is_switched_off(tmp_path: Path, watched: Watched) -> None:
    volume = _volume(tmp_path)
    volume.live.prefetch = False
    for number in range(20):
        _kind(volume, number)
    assert volume.store.heads == 20
    assert watched.most == 1
    volume.stop()


def test_a_failure_is_told_to_who_asks_for_that_name(tmp_path: Path, watched: Watched) -> None:
    volume = _volume(tmp_path)
    watched.fails.add("f009")
    for number in range(9):
        _kind(volume, number)
    with pytest.raises(StoreUnavailable):
        _kind(volume, 9)
    watched.fails.clear()
    assert _kind(volume, 9) == stat.S_IFIFO
    for number in range(10, COUNT):
        _kind(volume, number)
    volume.stop()


def test_a_file_that_is_opened_meanwhile_waits_for_what_is_read_ahead(
    tmp_path: Path, watched: Watched
) -> None:
    volume = _volume(tmp_path)
    fs = volume.fs
    for number in range(2):
        _kind(volume, number)
    inode = volume.run(volume.catalog.child(ROOT, "f004"))
    assert inode is not None
    opened = volume.run(fs.open(volume.request(), inode.ino, os.O_RDWR))
    volume.write(inode.ino, opened, 0, b"data")
    volume.run(fs.release(volume.request(), inode.ino, opened.fh))
    assert _kind(volume, 4) == stat.S_IFREG
    volume.stop()
    assert volume.objects()["f004"] == b"data"


def test_the_end_of_the_volume_ends_it(tmp_path: Path, watched: Watched) -> None:
    volume = _volume(tmp_path)
    watched.hangs.update({"f003", "f004"})
    for number in range(2):
        _kind(volume, number)
    volume.turn(5)
    assert watched.now == 2
    volume.stop()
    assert watched.now == 0


def _link(target: str, seconds: int) -> Blob:
    metadata = {"mode": str(stat.S_IFLNK | 0o777), "slayerfs-target": target}
    return Blob(b"", '"1"', seconds * 10**9, metadata)


def test_a_link_that_another_node_has_turned_is_seen(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0)

    def target() -> bytes:
        entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"link"))
        assert entry.attr is not None and stat.S_ISLNK(entry.attr.mode)
        return volume.run(volume.fs.readlink(volume.request(), entry.attr.ino))

    volume.bucket.objects["link"] = _link("one", 1000)
    assert target() == b"one"
    heads = volume.store.heads
    assert target() == b"one" and volume.store.heads == heads
    volume.bucket.objects["link"] = _link("two", 1001)
    assert target() == b"two"
    volume.bucket.objects["link"] = Blob(b"", '"1"', 1002 * 10**9, {})
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"link"))
    assert entry.attr is not None and stat.S_ISREG(entry.attr.mode)
    volume.stop()


def test_a_link_made_here_and_turned_elsewhere_is_seen(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    request = volume.request()
    entry = volume.run(volume.fs.symlink(request, ROOT, b"link", b"one"))
    assert volume.run(volume.fs.drain(2.0)) == 0
    volume.run(volume.fs.lookup(volume.request(), ROOT, b"link"))
    old = volume.bucket.objects["link"]
    changed = _link("two", old.mtime_ns // 10**9 + 5)
    volume.bucket.objects["link"] = Blob(b"", old.etag, changed.mtime_ns, changed.metadata)
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"link"))
    assert entry.attr is not None
    assert volume.run(volume.fs.readlink(volume.request(), entry.attr.ino)) == b"two"
    volume.stop()
