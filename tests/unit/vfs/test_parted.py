"""Another version becomes known while a file is being opened."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Attr, SetAttr
from tests.unit.vfs.calls import Gate
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


async def look_up(volume: Volume, name: bytes) -> Attr:
    entry = await volume.fs.lookup(volume.request(), ROOT, name)
    assert entry.attr is not None
    return entry.attr


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_listing_tells_it_while_the_open_fetches(tmp_path: Path, passthrough: bool) -> None:
    volume = Volume(tmp_path, passthrough=passthrough, ttl=3600)
    volume.bucket.objects["a"] = Blob(b"o" * 1000, '"old"', 10**18, {})

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        gate = Gate(volume, "get", after=True)
        opening = asyncio.ensure_future(fs.open(volume.request(), ino, os.O_RDONLY))
        await gate.reached.wait()
        volume.bucket.objects["a"] = Blob(b"n" * 100, '"new"', 2 * 10**18, {})
        await fs.refresh.name(await fs.catalog.get(ROOT), "a", force=True)
        gate.open.set()
        gate.remove()
        opened = await opening
        attr, _ttl = await fs.getattr(volume.request(), ino, opened.fh)
        data = as_bytes(await fs.read(volume.request(), ino, opened.fh, 0, 4096))
        assert (attr.size, data) == (1000, b"o" * 1000)
        child = await fs.catalog.child(ROOT, "a")
        assert child is not None and child.ino != ino and child.size == 100
        await fs.release(volume.request(), ino, opened.fh)
        await asyncio.sleep(0)
        assert await fs.catalog.count() == 2

    volume.run(run())
    volume.stop()


def test_an_answer_with_the_size_of_another_version_is_mended(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    volume.bucket.objects["a"] = Blob(b"n" * 100, '"new"', 10**18, {})

    async def run() -> None:
        before = await look_up(volume, b"a")
        await volume.catalog.update(before.ino, size=70)  # as a server said it once
        assert (await look_up(volume, b"a")).size == 100

    volume.run(run())
    volume.stop()


def test_what_a_clock_that_was_ahead_has_dated_is_asked_for_again(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=1)
    volume.bucket.objects["changed"] = Blob(b"old", '"old"', 10**18, {})
    volume.bucket.objects["removed"] = Blob(b"old", '"old"', 10**18, {})

    async def run() -> None:
        fs = volume.fs
        await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        ahead = 2**62
        for name in ("changed", "removed"):
            inode = await fs.catalog.child(ROOT, name)
            assert inode is not None
            await fs.catalog.update(inode.ino, checked_ns=ahead)
        await fs.catalog.update(ROOT, listed_ns=ahead)
        volume.bucket.objects["changed"] = Blob(b"newer", '"new"', 2 * 10**18, {})
        volume.bucket.objects["added"] = Blob(b"new", '"added"', 2 * 10**18, {})
        del volume.bucket.objects["removed"]
        items = await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        assert {item.name for item in items} == {b".", b"..", b"added", b"changed"}
        assert (await look_up(volume, b"changed")).size == len(b"newer")

    volume.run(run())
    volume.stop()


def test_a_version_that_others_replaced_is_not_changed_any_more(tmp_path: Path) -> None:
    """The kernel may have looked the name up just before; it looks again."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.bucket.objects["a"] = Blob(b"old", '"old"', 10**18, {})

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        opened = await fs.open(volume.request(), ino, os.O_RDONLY)
        volume.bucket.objects["a"] = Blob(b"newer", '"new"', 2 * 10**18, {})
        await fs.refresh.name(await fs.catalog.get(ROOT), "a", force=True)
        for call in (
            fs.open(volume.request(), ino, os.O_WRONLY),
            fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC),
            fs.setattr(volume.request(), ino, SetAttr(size=1)),
            fs.setattr(volume.request(), ino, SetAttr(mode=0o600)),
            fs.setattr(volume.request(), ino, SetAttr(mtime_ns=5)),
            fs.setxattr(volume.request(), ino, b"user.x", b"y", 0),
        ):
            with pytest.raises(FsError) as refused:
                await call
            assert refused.value.errno == errno.ESTALE
        assert as_bytes(await fs.read(volume.request(), ino, opened.fh, 0, 10)) == b"old"
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.bucket.objects["a"].body == b"newer"
