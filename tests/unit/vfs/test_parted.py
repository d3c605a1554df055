"""Another version becomes known while a file is being opened."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.content.rest import WRITEBACK_REST_MAX, Rest
from csi_slayer.errors import FsError, PreconditionFailed
from csi_slayer.vfs import unopened
from csi_slayer.vfs.types import Attr, SetAttr
from tests.unit.vfs.calls import Gate, begin, create
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

BIG = bytes(range(256)) * 12000
"""Not fetched whole before it is opened."""


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
        assert volume.inodes() == 2

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


async def list_root(volume: Volume) -> None:
    await volume.fs.readdir(volume.request(), ROOT, 0, 0, 100, False)


@pytest.mark.parametrize("read_too", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_what_is_being_opened_for_writing_keeps_its_name(
    tmp_path: Path, removed: bool, read_too: bool
) -> None:
    """The upload finds out what others did: nothing that was acknowledged is nowhere."""
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    volume.bucket.objects["a"] = Blob(BIG, '"old"', 10**18, {})
    volume.bucket.objects["b"] = Blob(b"b", '"b"', 10**18, {})

    def others_change() -> None:
        del volume.bucket.objects["a"]
        if not removed:
            volume.bucket.objects["a"] = Blob(b"other", '"new"', 2 * 10**18, {})

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        reading = await fs.open(volume.request(), ino, os.O_RDONLY) if read_too else None
        gate = Gate(volume, "fetch")
        opening = asyncio.ensure_future(fs.open(volume.request(), ino, os.O_WRONLY))
        await gate.reached.wait()
        old = volume.bucket.objects["a"]
        others_change()
        await list_root(volume)
        assert not opening.done()
        volume.bucket.objects["a"] = old  # the answer was on its way
        gate.open.set()
        gate.remove()
        opened = await opening
        others_change()
        await fs.write(volume.request(), ino, opened.fh, len(BIG), memoryview(b"mine"), True)
        if removed:
            await fs.flush(volume.request(), ino, opened.fh)
        else:
            with pytest.raises(PreconditionFailed):
                await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        if reading is not None:
            await fs.release(volume.request(), ino, reading.fh)

    volume.run(run())
    volume.stop()
    assert volume.events.conflicts == (not removed)
    found = volume.bucket.objects["a"].body
    assert found == (BIG + b"mine" if removed else b"other")


def test_a_directory_stays_for_what_is_written_in_it(tmp_path: Path) -> None:
    """Although others have put a file in its place."""
    volume = Volume(tmp_path, passthrough=False, ttl=0)

    async def run() -> None:
        fs = volume.fs
        entry = await fs.mkdir(volume.request(), ROOT, b"d", 0o755)
        assert entry.attr is not None
        await asyncio.sleep(1)
        ino, opened = await begin(volume, b"x", b"mine", parent=entry.attr.ino)
        del volume.bucket.objects["d/"]
        volume.bucket.objects["d"] = Blob(b"other", '"new"', 2 * 10**18, {})
        await fs.refresh.name(await fs.catalog.get(ROOT), "d", force=True)
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects()["d/x"] == b"mine"


@pytest.mark.parametrize("is_read", [False, True])
def test_attributes_that_are_set_here_go_to_the_version_that_is_there(
    tmp_path: Path, is_read: bool
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=True)
    volume.bucket.objects["a"] = Blob(b"old", '"old"', 10**18, {})

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        opened = await fs.open(volume.request(), ino, os.O_RDONLY) if is_read else None
        volume.bucket.objects["a"] = Blob(b"newer", '"new"', 2 * 10**18, {})
        await fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
        await fs.setxattr(volume.request(), ino, b"user.x", b"1", 0)
        await asyncio.sleep(3)
        attr = await look_up(volume, b"a")
        assert (attr.mode & 0o777, attr.size) == (0o600, len(b"newer"))
        assert await fs.getxattr(volume.request(), attr.ino, b"user.x") == b"1"
        if opened is not None:
            assert as_bytes(await fs.read(volume.request(), ino, opened.fh, 0, 9)) == b"old"
            await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()


def test_without_upcalls_what_was_read_is_kept_until_the_kernel_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unopened, "UNOPENED_KEPT", 3)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.kernel.opens_unseen = True
    names = [f"f{number}" for number in range(8)]
    for name in ["a", *names]:
        volume.bucket.objects[name] = Blob(b"old", '"old"', 10**18, {})

    async def read(ino: int) -> bytes:
        return as_bytes(await volume.fs.read(volume.request(), ino, 0, 0, 100))

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        unread = (await look_up(volume, b"f0")).ino
        assert await read(ino) == b"old"
        for name in ("a", "f0"):
            volume.bucket.objects[name] = Blob(b"newer", '"new"', 2 * 10**18, {})
            await fs.refresh.name(await fs.catalog.get(ROOT), name, force=True)
        assert (await look_up(volume, b"a")).ino != ino
        assert (await look_up(volume, b"f0")).ino == unread
        for name in names:
            assert await read((await look_up(volume, name.encode())).ino)
        await asyncio.sleep(1)
        assert await read(ino) == b"old"
        fs.forget(ino, 1)
        for name in names:
            assert await read((await look_up(volume, name.encode())).ino)
        await asyncio.sleep(1)
        assert await fs.catalog.find(ino) is None

    volume.run(run())
    volume.stop()


def test_a_clock_that_is_set_back_lets_nothing_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0, durability="writeback")
    now, ahead = time.time_ns, [3600 * 10**9]
    monkeypatch.setattr(time, "time_ns", lambda: now() + ahead[0])
    volume.run(create(volume, b"before", b"1"))
    volume.run(create(volume, b"removed", b"1"))
    volume.run(volume.fs.unlink(volume.request(), ROOT, b"removed"))
    ahead[0] = 0
    volume.run(create(volume, b"after", b"2"))
    row = volume.run(volume.catalog.pending("after"))
    assert row is not None
    assert Rest(volume.catalog, volume.content).left(row.since_ns) <= WRITEBACK_REST_MAX
    volume.stop()


@pytest.mark.parametrize("done", [False, True])
def test_an_append_that_is_sent_again_is_done_once(tmp_path: Path, done: bool) -> None:
    """The kernel believes the end to be at 4, where another node's record is."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.bucket.objects["a"] = Blob(b"11112222", '"old"', 10**18, {})
    data = memoryview(b"3333")

    async def run() -> None:
        fs = volume.fs
        ino = (await look_up(volume, b"a")).ino
        opened = await fs.open(volume.request(), ino, os.O_WRONLY | os.O_APPEND)
        if done:
            await fs.write(volume.request(), ino, opened.fh, 4, data, True)
        again = volume.request()._replace(resent=True)
        await fs.write(again, ino, opened.fh, 4, data, True)
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects()["a"] == b"111122223333"


@pytest.mark.parametrize("before", [b"", b"1111"])
def test_an_append_of_which_a_killed_worker_wrote_a_part_is_done_once(
    tmp_path: Path, before: bytes
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    data = memoryview(b"22223333")

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", before)
        await fs.write(volume.request(), ino, opened.fh, len(before), data[:4], True)
        again = volume.request()._replace(resent=True)
        assert await fs.write(again, ino, opened.fh, len(before), data, True) == len(data)
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects()["a"] == before + data
