"""What is done with names that others removed, very many at once."""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from csi_slayer.catalog import ROOT, Inode, vanishing
from csi_slayer.vfs import kept, refresh
from csi_slayer.vfs.types import OpenFlags
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

COUNT = 40


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """One listing at a time, and a sweep in small steps."""
    monkeypatch.setattr(refresh, "LISTINGS", 1)
    monkeypatch.setattr(vanishing, "STEP", 4)
    return Volume(tmp_path, passthrough=False, ttl=3600)


def put(volume: Volume, *names: str) -> None:
    for name in names:
        volume.bucket.objects[name] = Blob(b"x", f'"{name}"', 10**18, {})


async def look_up(volume: Volume, name: bytes, parent: int = ROOT) -> int:
    entry = await volume.fs.lookup(volume.request(), parent, name)
    return 0 if entry.attr is None else entry.attr.ino


async def list_names(volume: Volume, ino: int, *, plus: bool = False) -> list[str]:
    items = await volume.fs.readdir(volume.request(), ino, 0, 0, 1000, plus)
    return [item.name.decode() for item in items[2:]]


async def filled(volume: Volume, *, plus: bool = False) -> int:
    """A directory ``d`` of many files, listed."""
    put(volume, *(f"d/{number:02d}" for number in range(COUNT)))
    d = await look_up(volume, b"d")
    await volume.fs.refresh.ensure_listed(await volume.catalog.get(d))
    assert len(await list_names(volume, d, plus=plus)) == COUNT
    return d


def slow_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step of a sweep takes three seconds."""
    slow = SimpleNamespace(sleep=lambda _: asyncio.sleep(3))
    monkeypatch.setattr(vanishing, "asyncio", slow)


async def keeps(volume: Volume, ino: int) -> bool:
    """Whether the kernel may show the names that it has."""
    opened = await volume.fs.opendir(volume.request(), ino)
    return bool(opened.flags & OpenFlags.KEEP_CACHE)


async def expired(volume: Volume, ino: int) -> Inode:
    """A directory, what is known of which is older than the TTL."""
    await volume.catalog.update(ino, listed_ns=1, checked_ns=1)
    return await volume.catalog.get(ino)


@pytest.mark.parametrize("who", ["lists", "asks", "waits for its turn"])
def test_a_sweep_that_takes_long_does_not_pass_for_a_store_that_is_away(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Names that are gone were shown, and directories renamed that nobody had listed."""

    async def run() -> None:
        put(volume, "e/a")
        d = await filled(volume)
        e = await look_up(volume, b"e")
        await volume.fs.refresh.ensure_listed(await volume.catalog.get(e))
        volume.bucket.objects.clear()
        put(volume, "e/b")
        slow_down(monkeypatch)
        begun = asyncio.get_running_loop().time()
        if who == "asks":
            root = await volume.catalog.get(ROOT)
            await volume.fs.refresh.name(root, "d", force=True, known=True)
        else:
            put(volume, "d/left")
            listing = await volume.fs.refresh.begin(await expired(volume, d))
            if who == "lists":
                assert await list_names(volume, d) == ["left"]
            else:
                await expired(volume, e)
                assert await list_names(volume, e) == ["b"]
            assert listing.task is not None
            await listing.task
        assert asyncio.get_running_loop().time() > begun + 20
        assert not volume.fs.refresh.away
        assert (await volume.catalog.child(ROOT, "d") is None) == (who == "asks")

    volume.run(run())
    volume.stop()


class Told:
    """What the kernel is told to drop: names, and all that it has of inodes."""

    def __init__(self, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[tuple[int, bytes]] = []
        self.inodes: set[int] = set()
        kernel = volume.kernel
        monkeypatch.setattr(kernel, "invalidate_entry", lambda *name: self.names.append(name))
        monkeypatch.setattr(kernel, "invalidate_inode", self.inodes.add)


async def swept_but_for(volume: Volume, d: int, name: bytes) -> None:
    """Others remove all of ``d`` while a file in it is written here."""
    ino = await look_up(volume, name, d)
    opened = await volume.fs.open(volume.request(), ino, os.O_RDWR)
    await volume.fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"changed"))
    volume.bucket.objects.clear()
    put(volume, "left")
    await volume.fs.refresh.ensure_listed(await expired(volume, ROOT))
    await volume.fs.flush(volume.request(), ino, opened.fh)
    await volume.fs.release(volume.request(), ino, opened.fh)


@pytest.mark.parametrize("seen", [False, True])
def test_of_a_directory_that_stays_the_kernel_drops_the_names_that_others_removed(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    """They went one by one, as those of a directory that goes as well. A name alone, of which the
    kernel has no inode, needs no word of its own."""
    told = Told(volume, monkeypatch)

    async def run() -> None:
        d = await filled(volume, plus=seen)
        mine = b"07"
        assert await keeps(volume, d)
        await swept_but_for(volume, d, mine)
        assert await list_names(volume, d) == [mine.decode()]
        assert d in told.inodes
        assert not await keeps(volume, d)
        names = [name for parent, name in told.names if parent == d]
        assert len(names) == (COUNT - 1 if seen else 0)
        assert mine not in names

    volume.run(run())
    volume.stop()


def test_who_works_in_a_tree_that_goes_stays_for_the_kernel_forgets_the_others_meanwhile(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of each, not of the tree's top alone, at the end."""
    monkeypatch.setattr(kept, "NAMELESS_KEPT", 8)
    known: dict[tuple[int, bytes], int] = {}
    works_in = 0

    def forget(place: tuple[int, bytes]) -> None:
        ino = known.get(place, works_in)
        if ino != works_in:
            volume.fs.forget(known.pop(place), 1)

    def drop(parent: int, name: bytes) -> None:
        asyncio.get_running_loop().call_soon(forget, (parent, name))

    async def run() -> None:
        nonlocal works_in
        put(volume, *(f"d/{number:02d}/file" for number in range(COUNT)))
        d = await look_up(volume, b"d")
        for number in range(COUNT):
            name = b"%02d" % number
            known[d, name] = await look_up(volume, name, d)
        works_in = known[d, b"00"]
        monkeypatch.setattr(volume.kernel, "invalidate_entry", drop)
        slow_down(monkeypatch)
        volume.bucket.objects.clear()
        put(volume, "left")
        await volume.fs.refresh.ensure_listed(await expired(volume, ROOT))
        await asyncio.sleep(60)
        assert await volume.catalog.path(d) is None
        assert list(known.values()) == [works_in]
        attr, _ttl = await volume.fs.getattr(volume.request(), works_in, None)
        assert (attr.ino, attr.nlink) == (works_in, 0)

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("many", ["d/", "d/x/"])
def test_what_a_listing_found_is_not_shown_in_a_directory_that_was_renamed_during_its_sweep(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, many: str
) -> None:
    """What a directory's name hid was at another path, which is not listed to its end either."""

    async def run() -> None:
        put(volume, "d/x/in")
        d = await look_up(volume, b"d")
        x = await look_up(volume, b"x", d)  # before the others, and so it goes first
        put(volume, *(f"{many}{number:02d}" for number in range(COUNT)))
        await volume.fs.refresh.ensure_listed(await expired(volume, d))
        await volume.fs.refresh.ensure_listed(await volume.catalog.get(x))
        volume.bucket.objects.clear()
        put(volume, "d/x", "d/00")
        directory = await expired(volume, d)
        slow_down(monkeypatch)
        listing = await volume.fs.refresh.begin(directory)
        await asyncio.sleep(10)
        moved = (ROOT, "d", ROOT, "e")
        await volume.catalog.rename(directory, *moved, displaced=None, keep_displaced=False)
        assert listing.task is not None
        await listing.task
        shown = await volume.catalog.resolve("e/x")
        assert shown is None or shown.is_dir
        assert (await volume.catalog.get(d)).listed_ns == 1

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("changed", [False, True])
def test_a_directory_that_a_file_took_the_place_of_goes_some_names_at_a_time(
    volume: Volume, changed: bool
) -> None:
    """Of 20,000 names the event loop was held for 0.6 s."""

    async def run() -> None:
        d = await filled(volume)
        if changed:
            ino = await look_up(volume, b"00", d)
            opened = await volume.fs.open(volume.request(), ino, os.O_RDWR)
            await volume.fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"changed"))
        volume.bucket.objects.clear()
        put(volume, "d")
        root = await volume.catalog.get(ROOT)
        asking = asyncio.ensure_future(volume.fs.refresh.name(root, "d", force=True))
        left = [COUNT]
        while not asking.done():
            await asyncio.sleep(0)
            left.append(len(await volume.catalog.names(d, 0, 1000)))
        await asking
        assert max(before - after for before, after in itertools.pairwise(left)) <= vanishing.STEP
        assert left[-1] == changed
        now = await volume.catalog.child(ROOT, "d")
        assert now is not None and now.is_dir == changed
        if changed:
            volume.bucket.objects.clear()
            await volume.fs.flush(volume.request(), ino, opened.fh)
            await volume.fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
