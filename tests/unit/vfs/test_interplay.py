"""Two things that are done to one file, or one name, at the same time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import SMALL
from csi_slayer.catalog import ROOT
from csi_slayer.content import upload
from csi_slayer.content.ranges import as_bytes
from csi_slayer.errors import CacheFull
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import LARGE, Gate, begin, create, read
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob

BIG = LARGE * 3
AT = 1_300_000


def put(volume: Volume, key: str, data: bytes) -> None:
    volume.bucket.objects[key] = Blob(data, f'"other-{key}-{len(data)}"', 10**18, {})


def everything(volume: Volume) -> list[bytes]:
    """What the store has, and what was set aside."""
    kept = volume.fs.content.conflicts.list()
    return [*volume.objects().values(), *(path.read_bytes() for path in kept)]


async def opened(volume: Volume, name: bytes) -> tuple[int, int]:
    """A file, opened for writing: its inode and the handle."""
    entry = await volume.fs.lookup(volume.request(), ROOT, name)
    assert entry.attr is not None
    ino = entry.attr.ino
    return ino, (await volume.fs.open(volume.request(), ino, os.O_RDWR)).fh


@pytest.fixture
def large(tmp_path: Path) -> Volume:
    """With a file that is changed in part."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0, part_size=256 << 10)
    volume.live.prefetch = False
    put(volume, "large", BIG)
    return volume


def test_a_part_that_is_written_and_dated_as_before_while_it_is_sent(large: Volume) -> None:
    date = SetAttr(mtime_ns=10**18 + 5)

    async def run() -> None:
        fs = large.fs
        ino, fh = await opened(large, b"large")
        await fs.write(large.request(), ino, fh, 0, memoryview(b"one"))
        await fs.setattr(large.request(), ino, date)
        gate = Gate(large, "complete_multipart")
        flush = asyncio.ensure_future(fs.flush(large.request(), ino, fh))
        await gate.reached.wait()
        await fs.write(large.request(), ino, fh, AT, memoryview(b"two"))
        await fs.setattr(large.request(), ino, date)
        gate.open.set()
        await flush
        await fs.flush(large.request(), ino, fh)
        await fs.release(large.request(), ino, fh)

    large.run(run())
    large.stop()
    assert large.objects()["large"] == b"one" + BIG[3:AT] + b"two" + BIG[AT + 3 :]


@pytest.mark.parametrize("writes", [False, True])
def test_a_part_that_is_only_in_the_object_when_an_upload_ends(large: Volume, writes: bool) -> None:
    """The store has the new version, and has not said so yet."""

    async def run() -> None:
        fs = large.fs
        ino, fh = await opened(large, b"large")
        await fs.write(large.request(), ino, fh, 0, memoryview(b"new"))
        gate = Gate(large, "complete_multipart", after=True)
        flush = asyncio.ensure_future(fs.flush(large.request(), ino, fh))
        await gate.reached.wait()
        if writes:
            call = fs.write(large.request(), ino, fh, AT, memoryview(b"later"))
            task: asyncio.Future[Any] = asyncio.ensure_future(call)
        else:
            task = asyncio.ensure_future(fs.read(large.request(), ino, fh, AT, 4096))
        for _ in range(50):
            await asyncio.sleep(0)
        gate.open.set()
        await flush
        result = await task
        assert writes or as_bytes(result) == BIG[AT : AT + 4096]
        await fs.flush(large.request(), ino, fh)
        await fs.release(large.request(), ino, fh)

    large.run(run())
    large.stop()
    later = b"later" if writes else BIG[AT : AT + 5]
    assert large.objects()["large"] == b"new" + BIG[3:AT] + later + BIG[AT + 5 :]


def test_a_part_that_was_changed_of_a_file_that_swaps_names_and_was_replaced(large: Volume) -> None:
    """Of the two files this is the one that is copied aside first."""
    large.live.durability = "fsync"
    put(large, "a", BIG)

    async def run() -> None:
        fs = large.fs
        await fs.lookup(large.request(), ROOT, b"a")
        ino, fh = await opened(large, b"large")
        await fs.write(large.request(), ino, fh, 0, memoryview(b"ours"))
        put(large, "large", b"theirs")
        await fs.release(large.request(), ino, fh)
        await fs.rename(large.request(), ROOT, b"a", ROOT, b"large", 2)
        await asyncio.sleep(5)

    large.run(run())
    large.stop()
    assert large.objects() == {"a": b"theirs", "large": BIG}
    assert large.events.conflicts == 1
    assert any(data.startswith(b"ours") for data in everything(large))


@pytest.mark.parametrize("renamed", [False, True])
def test_a_name_that_is_made_again_while_its_conflict_is_looked_at(
    tmp_path: Path, renamed: bool
) -> None:
    """The new file has not seen what somebody else has put there, and does not replace it."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="fsync")

    async def run() -> None:
        fs = volume.fs
        await create(volume, b"f", b"one")
        assert await fs.drain(DRAIN) == 0
        ino, fh = await opened(volume, b"f")
        await fs.write(volume.request(), ino, fh, 0, memoryview(b"ours"))
        put(volume, "f", b"theirs")
        if renamed:
            new, handle = await begin(volume, b"g", b"new")
        gate = Gate(volume, "head", after=True)
        await fs.release(volume.request(), ino, fh)
        await gate.reached.wait()
        if renamed:
            await fs.rename(volume.request(), ROOT, b"g", ROOT, b"f", 0)
        else:
            await fs.unlink(volume.request(), ROOT, b"f")
            new, handle = await begin(volume, b"f", b"new")
        gate.open.set()
        await asyncio.sleep(1)
        await fs.release(volume.request(), new, handle.fh)
        await asyncio.sleep(5)

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"f": b"theirs"} and b"new" in everything(volume)


def test_theirs_is_at_the_target_when_the_copy_of_a_rename_is_refused(tmp_path: Path) -> None:
    """It is not taken for a copy of ours."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def run() -> None:
        await create(volume, b"a", b"one")
        assert await volume.fs.drain(DRAIN) == 0
        put(volume, "a", b"changed by them")
        gate = Gate(volume, "copy")
        gate.open.set()
        await volume.fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        await gate.reached.wait()
        put(volume, "b", b"theirs")
        await asyncio.sleep(5)

    volume.run(run())
    volume.stop()
    assert volume.objects()["b"] == b"changed by them"
    assert b"theirs" in everything(volume) and volume.events.conflicts == 1


def test_a_file_of_which_parts_were_sent_is_removed_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for that, and whoever is killed meanwhile leaves nothing behind."""
    monkeypatch.setattr(upload, "SINGLE", 4096)
    volume = Volume(tmp_path, passthrough=False, ttl=3600, part_size=1 << 20, durability="fsync")

    async def run() -> None:
        fs = volume.fs
        ino, handle = await begin(volume, b"a", b"")
        await asyncio.sleep(1)
        for at in range(0, 5 << 20, 256 << 10):
            data = memoryview(bytes(256 << 10))
            await fs.write(volume.request(), ino, handle.fh, at, data)
            await asyncio.sleep(0.2)
        await fs.release(volume.request(), ino, handle.fh)
        assert fs.content.uploader.sent_ahead()
        gate = Gate(volume, "abort_multipart")
        await fs.unlink(volume.request(), ROOT, b"a")
        assert not list(fs.content.staging.list())
        gate.open.set()
        await asyncio.sleep(1)
        assert not volume.bucket.uploads

    volume.run(run())
    volume.stop()


def test_the_catalog_cannot_be_written_at_the_last_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staged copy that it knows is still there, and is not left open."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def full(*_: object, **__: object) -> None:
        raise CacheFull("the disk of the catalog is full")

    async def run() -> None:
        fs = volume.fs
        ino, handle = await begin(volume, b"f", b"one")
        await fs.flush(volume.request(), ino, handle.fh)
        record = fs.opened.get(ino)
        with monkeypatch.context() as patch:
            patch.setattr(fs.catalog, "update", full)
            await fs.release(volume.request(), ino, handle.fh)
            assert record is not None and record.file is None
        assert await read(volume, ino) == b"one"

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("size", [4, 2 << 20])
def test_attributes_that_are_set_while_a_file_is_open_are_stored_after_its_close(
    tmp_path: Path, size: int
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=True, durability="fsync")

    async def run() -> None:
        fs = volume.fs
        await create(volume, b"a", bytes(size))
        assert await fs.drain(DRAIN) == 0
        ino, fh = await opened(volume, b"a")
        await fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
        await asyncio.sleep(20)
        await fs.release(volume.request(), ino, fh)
        await asyncio.sleep(20)
        assert await fs.catalog.pending_count() == 0

    volume.run(run())
    assert int(volume.bucket.objects["a"].metadata["mode"]) & 0o777 == 0o600
    volume.stop()


def test_unmounted_while_a_file_becomes_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its staged copy is in no table any more: nobody would remove it."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, thread = volume.fs, asyncio.to_thread

    async def run() -> None:
        reached, gate = asyncio.Event(), asyncio.Event()

        async def late(call: Any, *args: Any) -> Any:
            if call == volume.cache.adopt:
                reached.set()
                await gate.wait()
                raise CacheFull("no room")
            return await thread(call, *args)

        ino, handle = await begin(volume, b"f", bytes(SMALL + 1))
        await fs.flush(volume.request(), ino, handle.fh)
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "to_thread", late)
            release = asyncio.ensure_future(fs.release(volume.request(), ino, handle.fh))
            await reached.wait()
            let_go = asyncio.ensure_future(fs.let_go())
            for _ in range(20):
                await asyncio.sleep(0)
            assert not let_go.done()
            gate.set()
            await let_go
            assert not list(fs.content.staging.list())
            await release

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("sizes", [(1,), (100_000,), (-1000, 100_000)])
def test_a_part_that_grew_is_read_and_stored(
    large: Volume, sizes: tuple[int, ...], dies: bool
) -> None:
    """By a call without a handle, so that it is opened anew: of the object no more is asked for
    than it has, though the inode has another size by then, and what the cache has of it is used."""
    large.live.durability = "writeback"
    expected = bytearray(BIG)

    async def grow() -> int:
        entry = await large.fs.lookup(large.request(), ROOT, b"large")
        assert entry.attr is not None
        for more in sizes:
            size = len(BIG) + more
            del expected[size:]
            expected.extend(bytes(size - len(expected)))
            await large.fs.setattr(large.request(), entry.attr.ino, SetAttr(size=size))
        return entry.attr.ino

    ino = large.run(grow())
    if dies:
        large.die()
        large.start(taken_over=True)
    assert large.run(read(large, ino)) == expected
    assert not large.cache.events.corrupt_segments.value
    large.stop()
    assert large.objects() == {"large": bytes(expected)}
