"""A quota while several programs make files grow at once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import CacheFull, FsError, StoreUnavailable
from csi_slayer.vfs import fileops
from csi_slayer.vfs.types import Opened, SetAttr
from tests.unit.vfs.calls import LARGE, Gate, ThreadGate, begin, read
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

QUOTA = 1000


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.live.quota = QUOTA
    return volume


async def close(volume: Volume, ino: int, opened: Opened) -> None:
    await volume.fs.flush(volume.request(), ino, opened.fh)
    await volume.fs.release(volume.request(), ino, opened.fh)


async def check(volume: Volume, ino: int, content: bytes) -> None:
    """The file, which is closed, is that long and is read."""
    attr, _ttl = await volume.fs.getattr(volume.request(), ino, None)
    assert attr.size == len(content)
    assert await read(volume, ino) == content


async def one_of(*calls: Awaitable[object]) -> None:
    results = await asyncio.gather(*calls, return_exceptions=True)
    (refused,) = [one for one in results if isinstance(one, FsError)]
    assert refused.errno == errno.ENOSPC


@pytest.mark.parametrize("copied", [False, True])
def test_what_grows_at_once_does_not_get_the_same_room(volume: Volume, copied: bool) -> None:
    fs = volume.fs

    async def run() -> None:
        source, read = await begin(volume, b"s", b"s" * 300)
        files = [await begin(volume, name, b"") for name in (b"a", b"b")]
        if copied:
            for ino, opened in files:
                await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"x" * 101))
            await one_of(
                *(
                    fs.copy_file_range(volume.request(), source, read.fh, 0, ino, to.fh, 101, 300)
                    for ino, to in files
                )
            )
            used = 300 + 401 + 101
        else:
            await one_of(
                *(fs.fallocate(volume.request(), ino, to.fh, 0, 0, 400) for ino, to in files)
            )
            used = 300 + 400
        assert fs.catalog.used_bytes == used
        for ino, to in [(source, read), *files]:
            await fs.flush(volume.request(), ino, to.fh)
            await fs.release(volume.request(), ino, to.fh)
        assert fs.catalog.used_bytes == used

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("durability", ["close", "writeback"])
@pytest.mark.parametrize("call", ["fallocate", "copy_range"])
def test_what_a_call_makes_a_file_grow_by_stays_counted_while_the_file_is_synced(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, call: str, durability: str
) -> None:
    """Others got the room while gigabytes were copied."""
    fs, gate = volume.fs, ThreadGate(volume, getattr(fileops, call))
    volume.live.durability = durability  # type: ignore[assignment]

    async def run() -> None:
        source, read = await begin(volume, b"s", b"s" * 300)
        ino, to = await begin(volume, b"a", b"a" * 10)
        monkeypatch.setattr(fileops, call, gate)
        volume.loop.threaded = True
        growing: Awaitable[object]
        if call == "fallocate":
            growing = fs.fallocate(volume.request(), ino, to.fh, 0, 10, 300)
        else:
            growing = fs.copy_file_range(volume.request(), source, read.fh, 0, ino, to.fh, 10, 300)
        task = asyncio.ensure_future(growing)
        await gate.reached.wait()
        assert fs.catalog.used_bytes == 610
        await fs.fsync(volume.request(), ino, to.fh, False)
        assert fs.catalog.used_bytes == 610
        gate.let_go()
        await task
        volume.loop.threaded = False
        assert fs.catalog.used_bytes == 610
        for one, opened in ((source, read), (ino, to)):
            await close(volume, one, opened)
        assert fs.catalog.used_bytes == 610

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("call", ["fallocate", "copy_range"])
def test_what_failed_gives_the_room_back(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    fs = volume.fs

    def full(*_args: object) -> None:
        raise CacheFull("full")

    monkeypatch.setattr(fileops, call, full)

    async def run() -> None:
        source, read = await begin(volume, b"s", b"s" * 300)
        ino, to = await begin(volume, b"a", b"")
        growing: Awaitable[object]
        if call == "fallocate":
            growing = fs.fallocate(volume.request(), ino, to.fh, 0, 0, 400)
        else:
            growing = fs.copy_file_range(volume.request(), source, read.fh, 0, ino, to.fh, 0, 300)
        with pytest.raises((CacheFull, FsError)):
            await growing
        assert fs.catalog.used_bytes == 300
        for one, opened in ((source, read), (ino, to)):
            await fs.flush(volume.request(), one, opened.fh)
            await fs.release(volume.request(), one, opened.fh)

    volume.run(run())
    volume.stop()


def test_what_a_file_grew_by_while_it_was_sent_stays_counted(volume: Volume) -> None:
    fs = volume.fs

    async def run() -> None:
        ino, to = await begin(volume, b"f", b"x" * 300)
        gate = Gate(volume, "put")
        flush = asyncio.create_task(fs.flush(volume.request(), ino, to.fh))
        await gate.reached.wait()
        gate.remove()
        await fs.write(volume.request(), ino, to.fh, 300, memoryview(b"y" * 400))
        counted = []
        stored = fs.catalog.stored

        async def watched(*args: Any, **values: Any) -> bool:
            result = await stored(*args, **values)
            counted.append(fs.catalog.used_bytes)
            return result

        fs.catalog.stored = watched  # type: ignore[method-assign]
        gate.open.set()
        await flush
        assert set(counted) == {700}
        await fs.release(volume.request(), ino, to.fh)

    volume.run(run())
    volume.stop()


def test_a_write_that_failed_leaves_the_file_as_long_as_it_was(tmp_path: Path) -> None:
    """Its first block cannot be fetched."""
    content = LARGE * 6
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0)
    volume.live.quota = len(content) + QUOTA
    volume.bucket.objects["f"] = Blob(content, '"1"', 10**18, {})
    fs = volume.fs

    async def away(*_args: object, **_values: object) -> None:
        raise StoreUnavailable("away")

    async def run() -> None:
        found = (await fs.lookup(volume.request(), ROOT, b"f")).attr
        assert found is not None
        to = await fs.open(volume.request(), found.ino, os.O_RDWR)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(volume.store, "fetch", away)
            patch.setattr(volume.store, "get", away)
            data = memoryview(b"y" * 400)
            with pytest.raises(StoreUnavailable):
                await fs.write(volume.request(), found.ino, to.fh, len(content) - 1, data)
        assert fs.catalog.used_bytes == len(content)
        await close(volume, found.ino, to)
        await check(volume, found.ino, content)

    volume.run(run())
    volume.stop()


def test_a_copy_of_what_others_have_cut_leaves_the_file_as_long_as_it_was(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fileops, "copy_range", lambda *_args: 0)
    fs = volume.fs

    async def run() -> None:
        source, cut = await begin(volume, b"s", b"s" * 300)
        ino, to = await begin(volume, b"a", b"a" * 10)
        await fs.flush(volume.request(), ino, to.fh)
        await fs.copy_file_range(volume.request(), source, cut.fh, 0, ino, to.fh, 10, 300)
        assert fs.catalog.used_bytes == 310
        await close(volume, source, cut)
        await close(volume, ino, to)
        await check(volume, ino, b"a" * 10)

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_worker_that_died_before_a_write_leaves_the_file_as_long_as_it_was(
    volume: Volume, taken_over: bool
) -> None:
    async def run() -> tuple[int, Opened]:
        ino, to = await begin(volume, b"a", b"a" * 10)
        await volume.fs.flush(volume.request(), ino, to.fh)
        await volume.fs.reserve(ino, 510)
        return ino, to

    ino, to = volume.run(run())
    volume.die()
    volume.start(taken_over=taken_over)
    assert volume.catalog.used_bytes == 10

    async def closed() -> None:
        if taken_over:
            await close(volume, ino, to)
        await asyncio.sleep(1.0)
        await check(volume, ino, b"a" * 10)

    volume.run(closed())
    volume.stop()


def test_what_a_killed_program_makes_a_file_grow_by_later_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for what others write into the file."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600, durability="writeback")
    volume.live.quota = 4 << 30
    fs, gate = volume.fs, ThreadGate(volume, os.ftruncate)

    async def run() -> None:
        ino, opened = await begin(volume, b"a", b"a" * 10)
        monkeypatch.setattr(os, "ftruncate", gate)
        volume.loop.threaded = True
        task = asyncio.ensure_future(fs.setattr(volume.request(), ino, SetAttr(size=300)))
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fs.catalog.used_bytes == 300
        await fs.fsync(volume.request(), ino, opened.fh, False)
        assert fs.catalog.used_bytes == 300
        gate.let_go()
        record = fs.opened.get(ino)
        assert record is not None
        while record.users > 1:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0.001)
        volume.loop.threaded = False
        assert fs.catalog.used_bytes == 300
        assert record.growing == []
        await close(volume, ino, opened)

    volume.run(run())
    volume.stop()
