"""Who reads, copies or sends while the file, its names or its clock change."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content import settling, upload
from csi_slayer.content.ranges import as_bytes
from csi_slayer.errors import StoreUnavailable
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.calls import LARGE, Gate, begin, create
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob

BIG = LARGE * 3


def put(volume: Volume, key: str, data: bytes, **metadata: str) -> None:
    volume.bucket.objects[key] = Blob(data, f'"other-{key}-{len(data)}"', 10**18, metadata)


@pytest.mark.parametrize("hydrate", [0, 1 << 30])
def test_a_reader_waits_while_another_opens_for_writing(tmp_path: Path, hydrate: int) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=hydrate, part_size=256 << 10)
    put(volume, "a", BIG)

    async def run() -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, b"a")
        assert entry.attr is not None
        ino = entry.attr.ino
        reader = await fs.open(volume.request(), ino, os.O_RDONLY)
        gate = Gate(volume, "fetch")

        async def take() -> bytes:
            return as_bytes(await fs.read(volume.request(), ino, reader.fh, 700000, 4096))

        reading = asyncio.ensure_future(take())
        await gate.reached.wait()
        opening = asyncio.ensure_future(fs.open(volume.request(), ino, os.O_RDWR))
        await asyncio.sleep(0.01)
        gate.open.set()
        writer = await opening
        got = as_bytes(await asyncio.wait_for(reading, 5))
        assert got == BIG[700000:704096]
        await fs.release(volume.request(), ino, writer.fh)
        await fs.release(volume.request(), ino, reader.fh)

    volume.run(run())
    volume.stop()


def test_a_reader_waits_while_an_overlay_is_stored(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0, part_size=256 << 10)
    put(volume, "a", BIG)

    async def run() -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, b"a")
        assert entry.attr is not None
        ino = entry.attr.ino
        writer = await fs.open(volume.request(), ino, os.O_RDWR)
        await fs.write(volume.request(), ino, writer.fh, 0, memoryview(bytes(131072)))
        gate = Gate(volume, "fetch")

        async def take() -> bytes:
            return as_bytes(await fs.read(volume.request(), ino, writer.fh, 700000, 4096))

        reading = asyncio.ensure_future(take())
        await gate.reached.wait()
        gate.remove()
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, writer.fh))
        await asyncio.sleep(0.05)
        gate.open.set()
        await asyncio.wait_for(flush, 5)
        got = as_bytes(await asyncio.wait_for(reading, 5))
        assert got == BIG[700000:704096]
        await fs.release(volume.request(), ino, writer.fh)

    volume.run(run())
    volume.stop()


def test_many_spans_read_at_once(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0, segment_max=1 << 20)
    data = os.urandom(12 << 20)
    put(volume, "a", data)

    async def run() -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, b"a")
        assert entry.attr is not None
        ino = entry.attr.ino
        reader = await fs.open(volume.request(), ino, os.O_RDONLY)

        async def one(n: int) -> None:
            at = (n << 20) + 4096
            got = as_bytes(await fs.read(volume.request(), ino, reader.fh, at, 4096))
            assert got == data[at : at + 4096], n

        await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(12))), 10)
        await fs.release(volume.request(), ino, reader.fh)

    volume.run(run())
    volume.stop()


def test_theirs_was_moved_while_ours_was_written(tmp_path: Path) -> None:
    """A rename finds somebody else's version; meanwhile the file is written anew and closed."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="fsync")

    async def run() -> None:
        fs = volume.fs
        ino = await create(volume, b"a", b"one")
        assert await fs.drain(DRAIN) == 0
        put(volume, "a", b"theirs")
        copy, head = Gate(volume, "copy"), Gate(volume, "head", after=True)
        copy.open.set()
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        await copy.reached.wait()
        head.reached.clear()
        await head.reached.wait()
        opened = await fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"ours"))
        await fs.release(volume.request(), ino, opened.fh)
        head.open.set()
        await fs.drain(DRAIN)

    volume.run(run())
    kept = [p.read_bytes() for p in (tmp_path / "cache").rglob("conflicts/**/*") if p.is_file()]
    assert b"ours" in [*volume.objects().values(), *kept]
    volume.stop()


def test_renamed_while_a_send_waits_for_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload to the old name happens after that to the new one."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    original = volume.fs.content.uploader.send

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"one")
        held = asyncio.Event()
        reached = asyncio.Event()

        async def send(
            ino: int, key: str, *args: Any, **kw: Any
        ) -> Any:  # the thread that waits for writes ends late
            if key == "a":
                reached.set()
                await held.wait()
            return await original(ino, key, *args, **kw)

        monkeypatch.setattr(fs.content.uploader, "send", send)
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, opened.fh))
        await reached.wait()
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        await asyncio.sleep(0.05)
        await asyncio.wait_for(fs.fsync(volume.request(), ino, opened.fh, False), 5)
        assert volume.objects() == {"b": b"one"}
        held.set()
        await flush
        await asyncio.sleep(0.05)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"two"))
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"b": b"two"}
    assert volume.events.conflicts == 0


async def _grow(
    volume: Volume,
    ino: int,
    opened: Opened,
    data: bytes,
    until: Callable[[], bool] = lambda: False,
) -> int:
    """Write so slowly that parts are sent ahead; returns where it ended."""
    await asyncio.sleep(1)
    at = 0
    while at < len(data) and not until():
        piece = memoryview(data)[at : at + 262144]
        at += await volume.fs.write(volume.request(), ino, opened.fh, at, piece)
        await asyncio.sleep(0.2)
    return at


def test_a_multipart_upload_sent_ahead_whose_end_was_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SINGLE", 4096)
    volume = Volume(tmp_path, passthrough=False, ttl=3600, part_size=1 << 20)

    async def run() -> int:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"")
        await fs.fsync(volume.request(), ino, opened.fh, False)
        data = os.urandom(5 << 20)
        await _grow(volume, ino, opened, data)
        assert fs.content.uploader.sent_ahead()
        complete = volume.store.complete_multipart

        async def lost(*args: Any, **kw: Any) -> None:
            monkeypatch.setattr(volume.store, "complete_multipart", complete)
            await complete(*args, **kw)
            raise StoreUnavailable("no answer")

        monkeypatch.setattr(volume.store, "complete_multipart", lost)
        with contextlib.suppress(StoreUnavailable):
            await fs.flush(volume.request(), ino, opened.fh)
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        assert volume.objects() == {"a": data}
        return ino

    volume.run(run())
    volume.stop()
    assert volume.events.conflicts == 0


def test_a_part_that_is_written_to_while_it_is_sent_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SINGLE", 4096)
    volume = Volume(tmp_path, passthrough=False, ttl=3600, part_size=1 << 20)

    async def run() -> bytes:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"")
        data = os.urandom(5 << 20)
        gate = Gate(volume, "upload_part")
        n = await _grow(volume, ino, opened, data, until=gate.reached.is_set)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"set while it is open"))
        gate.open.set()
        await asyncio.sleep(0.2)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(data)[:100])
        await fs.write(volume.request(), ino, opened.fh, n, memoryview(data)[n:])
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        return data

    data = volume.run(run())
    volume.stop()
    assert volume.objects()["a"] == data


def test_a_directory_renamed_while_it_is_listed(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    put(volume, "d/x", b"x")
    put(volume, "d/y", b"y")

    async def run() -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, b"d")
        assert entry.attr is not None
        d = entry.attr.ino
        await fs.readdir(volume.request(), d, 0, 0, 10, False)
        gate = Gate(volume, "list_page", after=True)
        directory = await fs.catalog.get(d)
        listing = await fs.refresh.begin(directory)
        await gate.reached.wait()
        gate.remove()
        y = await fs.catalog.child(d, "y")
        assert y is not None
        await fs.catalog.remove(d, "y", y, keep=False)
        top = await fs.catalog.get(d)
        await fs.catalog.rename(top, ROOT, "d", ROOT, "e", displaced=None, keep_displaced=False)
        fs.changed_names()
        await fs.drain(DRAIN)
        gate.open.set()
        assert listing.task is not None
        await listing.task
        assert await fs.catalog.child(d, "y") is None

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"e/x": b"x"}


async def to_be_copied(volume: Volume) -> tuple[int, Opened, int, Opened]:
    """A file of three bytes and a new one, both open."""
    fs = volume.fs
    source = await create(volume, b"a", b"one")
    opened = await fs.open(volume.request(), source, os.O_RDONLY)
    entry, created = await fs.create(volume.request(), ROOT, b"b", 0o644, os.O_WRONLY)
    assert entry.attr is not None
    return source, opened, entry.attr.ino, created


def test_clone_and_a_write_in_the_same_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.13: the write leaves the mtime as the copy did."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600)

    async def run() -> None:
        fs = volume.fs
        src, s, dst, o = await to_be_copied(volume)
        original = fs._note_clone
        ticks: list[int] = []

        async def note(*args: Any) -> None:
            ticks.append(args[3].stat().st_mtime_ns)
            clock.time_ns.return_value = ticks[0]
            await original(*args)

        clock = Mock()
        monkeypatch.setattr(settling, "time", clock)
        monkeypatch.setattr(fs, "_note_clone", note)
        monkeypatch.setattr(settling, "has_coarse_times", lambda _fd: True)
        assert await fs.copy_file_range(volume.request(), src, s.fh, 0, dst, o.fh, 0, 3) == 3
        fd = volume.kernel.backing[o.backing_id]
        os.pwrite(fd, b"TWO", 0)
        os.utime(fd, ns=(0, ticks[0]))  # what a coarse clock gives
        clock.time_ns.return_value = ticks[0] + 10 * settling.TICK
        await fs.flush(volume.request(), dst, o.fh)
        await fs.release(volume.request(), dst, o.fh)
        await fs.release(volume.request(), src, s.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects()["b"] == b"TWO"


def test_a_copy_is_emptied_before_it_is_known_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=True, ttl=3600)

    async def run() -> None:
        fs = volume.fs
        src, s, dst, o = await to_be_copied(volume)
        original = fs._note_clone

        async def note(*args: Any) -> None:
            flags = os.O_WRONLY | os.O_TRUNC
            await fs.release(
                volume.request(), dst, (await fs.open(volume.request(), dst, flags)).fh
            )
            await original(*args)

        monkeypatch.setattr(fs, "_note_clone", note)
        await fs.copy_file_range(volume.request(), src, s.fh, 0, dst, o.fh, 0, 3)
        await fs.flush(volume.request(), dst, o.fh)
        await fs.release(volume.request(), dst, o.fh)
        await fs.release(volume.request(), src, s.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects()["b"] == b""
