"""What the kernel is told, at the next open, of a file that others have changed."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any, cast

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import CacheFull, FsError
from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.handlers.directories import readdirplus
from csi_slayer.vfs.openops import TRIED_AGAIN
from csi_slayer.vfs.stale import StalePages
from csi_slayer.vfs.types import Opened, OpenFlags
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def put(volume: Volume, name: str, version: int) -> None:
    """Another node writes a file."""
    body = b"line\n" * version
    volume.bucket.objects[name] = Blob(body, f'"{name} {version}"', version * 10**18, {})


async def look_up(volume: Volume, name: str) -> int:
    entry = await volume.fs.lookup(volume.request(), ROOT, name.encode())
    assert entry.attr is not None
    return entry.attr.ino


async def open_as_linux(volume: Volume, name: str, flags: int) -> tuple[int, Opened]:
    """ESTALE is tried once more, with the name looked up again."""
    ino = await look_up(volume, name)
    try:
        return ino, await volume.fs.open(volume.request(), ino, flags)
    except FsError as error:
        if error.errno != errno.ESTALE:
            raise
    ino = await look_up(volume, name)
    return ino, await volume.fs.open(volume.request(), ino, flags)


def test_who_appends_is_sent_back_once_however_slow_the_store_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=1)
    volume.live.close_to_open = True
    put(volume, "log", 1)
    head = volume.store.head

    async def slowly(key: str) -> Any:
        await asyncio.sleep(30)
        return await head(key)

    async def run() -> None:
        fs = volume.fs
        ino, opened = await open_as_linux(volume, "log", os.O_RDONLY)
        await fs.release(volume.request(), ino, opened.fh)
        monkeypatch.setattr(volume.store, "head", slowly)
        for version in (2, 3):
            put(volume, "log", version)
            for _ in range(2):
                ino, opened = await open_as_linux(volume, "log", os.O_WRONLY | os.O_APPEND)
                await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()


async def keeps_pages(volume: Volume, ino: int, flags: int = os.O_RDONLY) -> bool:
    """Whether an open leaves the kernel the pages that it has."""
    opened = await volume.fs.open(volume.request(), ino, flags)
    await volume.fs.release(volume.request(), ino, opened.fh)
    return bool(opened.flags & OpenFlags.KEEP_CACHE)


async def change_all(volume: Volume, version: int) -> None:
    """Another node writes all files, and the volume is listed."""
    for name in list(volume.bucket.objects):
        if name != "untouched":
            put(volume, name, version)
    listing = await volume.fs.refresh.begin(await volume.fs.catalog.get(ROOT))
    assert listing.task is not None
    await listing.task


def test_changes_of_what_the_kernel_never_saw_cost_nobody_its_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    for number in range(20):
        put(volume, f"f{number}", 1)
    put(volume, "untouched", 1)
    volume.fs._stale_pages = StalePages(lambda: volume.catalog.next_ino, kept=5)
    told: list[int] = []
    monkeypatch.setattr(volume.kernel, "invalidate_inode", told.append)

    async def run() -> None:
        untouched = await look_up(volume, "untouched")
        await volume.fs.readdir(volume.request(), ROOT, 0, 0, 100, False)
        await change_all(volume, 2)
        assert await keeps_pages(volume, untouched)
        assert not told

    volume.run(run())
    volume.stop()


def test_after_very_many_changes_each_file_is_read_anew_once(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    names = [f"f{number}" for number in range(20)]
    for name in [*names, "untouched"]:
        put(volume, name, 1)
    volume.fs._stale_pages = StalePages(lambda: volume.catalog.next_ino, kept=5)

    async def run() -> None:
        untouched = await look_up(volume, "untouched")
        inos = [await look_up(volume, name) for name in names]
        for version in (2, 3):
            await change_all(volume, version)
            for ino in inos:
                assert [await keeps_pages(volume, ino) for _ in range(2)] == [False, True]
        assert [await keeps_pages(volume, untouched) for _ in range(2)] == [False, True]

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("taken_over", [False, True])
def test_what_a_dead_worker_had_still_to_tell_the_next_one_does(
    tmp_path: Path, taken_over: bool
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    for name in ("a", "log"):
        put(volume, name, 1)

    async def before() -> list[int]:
        inos = [await look_up(volume, name) for name in ("a", "log")]
        for ino in inos:
            assert await keeps_pages(volume, ino)
        await change_all(volume, 2)
        return inos

    inos = volume.run(before())
    volume.die()  # with the invalidations queued, which the kernel did not get
    volume.start(taken_over=taken_over)

    async def after() -> None:
        fs = volume.fs
        assert [await keeps_pages(volume, inos[0]) for _ in range(2)] == [not taken_over, True]
        flags = (await fs.opendir(volume.request(), ROOT)).flags
        assert bool(flags & OpenFlags.KEEP_CACHE) == (not taken_over)
        await asyncio.sleep(TRIED_AGAIN)
        told = 0
        for _ in range(2):
            try:
                assert await keeps_pages(volume, inos[1], os.O_WRONLY | os.O_APPEND) != taken_over
            except FsError as error:
                told += error.errno == errno.ESTALE
        assert told == taken_over
        put(volume, "new", 1)
        await fs.refresh.name(await fs.catalog.get(ROOT), "new", force=True)
        assert await keeps_pages(volume, await look_up(volume, "new"))

    volume.run(after())
    volume.stop()


def test_who_appends_is_not_refused_by_two_workers_in_turn(tmp_path: Path) -> None:
    """The first was killed before the kernel's second try, which is the last."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    put(volume, "log", 1)

    async def refused() -> int:
        ino = await look_up(volume, "log")
        assert await keeps_pages(volume, ino)
        await change_all(volume, 2)
        with pytest.raises(FsError) as caught:
            await volume.fs.open(volume.request(), ino, os.O_WRONLY | os.O_APPEND)
        assert caught.value.errno == errno.ESTALE
        return ino

    ino = volume.run(refused())
    volume.die()
    volume.start(taken_over=True)

    async def again() -> None:
        fs = volume.fs
        opened = await fs.open(volume.request(), ino, os.O_WRONLY | os.O_APPEND)
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"more"), True)
        await fs.release(volume.request(), ino, opened.fh)

    before = volume.objects()["log"]
    volume.run(again())
    volume.stop()
    assert volume.objects()["log"] == before + b"more"


def test_an_open_that_fails_leaves_the_next_one_what_there_is_to_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    put(volume, "a", 1)
    queued: set[int] = set()
    monkeypatch.setattr(volume.kernel, "invalidate_inode", queued.add)

    async def renew(ino: int) -> None:
        queued.discard(ino)

    def full(*_args: object) -> None:
        raise CacheFull("the table of handles cannot grow")

    async def run() -> None:
        fs = volume.fs
        ino = await look_up(volume, "a")
        assert await keeps_pages(volume, ino)
        await change_all(volume, 2)
        assert queued == {ino}
        monkeypatch.setattr(volume.kernel, "renew", renew)
        with monkeypatch.context() as patch:
            patch.setattr(fs.handles, "add", full)
            with pytest.raises(CacheFull):
                await fs.open(volume.request(), ino, os.O_RDONLY)
        assert queued == {ino}
        assert [await keeps_pages(volume, ino) for _ in range(2)] == [False, True]

    volume.run(run())
    volume.stop()


def test_a_listing_whose_end_did_not_fit_leaves_the_next_open_what_there_is_to_tell(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    names = [f"{'n' * 100}{number}" for number in range(9)]
    for name in names:
        put(volume, name, 1)

    class Served:
        ops = volume.fs

    async def run() -> None:
        inos = [await look_up(volume, name) for name in names]
        await change_all(volume, 2)
        body = p.READ_IN.pack(0, 0, 600, 0, 0, 0, 0)
        await readdirplus(cast(Any, Served), volume.request(), ROOT, memoryview(body))
        for ino in inos:
            assert not await keeps_pages(volume, ino)

    volume.run(run())
    volume.stop()
