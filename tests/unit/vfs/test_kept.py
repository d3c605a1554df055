"""What others have removed, while the kernel may still have it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.opened import OpenInode
from csi_slayer.errors import CacheError
from csi_slayer.vfs import kept
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

COUNT = 40


def make(tmp_path: Path, *, unseen: bool, below: str = "") -> Volume:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.kernel.opens_unseen = unseen
    for number in range(COUNT):
        volume.bucket.objects[f"{number:02d}{below}"] = Blob(b"x", '"x"', 10**18, {})
    return volume


async def list_root(volume: Volume) -> None:
    listing = await volume.fs.refresh.begin(await volume.fs.catalog.get(ROOT))
    assert listing.task is not None
    await listing.task


async def look_up_all(volume: Volume) -> list[int]:
    found = []
    for number in range(COUNT):
        entry = await volume.fs.lookup(volume.request(), ROOT, b"%02d" % number)
        assert entry.attr is not None
        found.append(entry.attr.ino)
    return found


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("below", ["", "/file"])
def test_of_what_no_kernel_has_seen_nothing_is_kept(
    tmp_path: Path, unseen: bool, below: str
) -> None:
    volume = make(tmp_path, unseen=unseen, below=below)

    async def run() -> None:
        await list_root(volume)
        assert volume.inodes() == COUNT + 1
        volume.bucket.objects.clear()
        await list_root(volume)
        assert volume.inodes() == 1
        assert not volume.fs.removed
        assert len(volume.fs.opened) == 0

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize(("unseen", "below"), [(True, ""), (False, "/file")])
def test_of_a_crowd_those_stay_that_somebody_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unseen: bool, below: str
) -> None:
    """One task lets go of the others, of some at a time, and goes on when one of them fails."""
    monkeypatch.setattr(kept, "NAMELESS_KEPT", 4)
    monkeypatch.setattr(kept, "EXCESS", 15)
    monkeypatch.setattr(kept, "AT_ONCE", 2)
    volume = make(tmp_path, unseen=unseen, below=below)
    fs = volume.fs
    let_go, tasks, most, failed, within = fs.opened.let_go, 0, 0, False, 0

    async def counted(record: OpenInode) -> None:
        nonlocal most, failed, within
        most = max(most, len(fs.content._tasks) - tasks)
        await asyncio.sleep(0)
        within += 1
        await let_go(record)
        within -= 1
        if not failed and not within:
            failed = True
            raise CacheError("no")

    async def run() -> None:
        nonlocal tasks
        inos = await look_up_all(volume)
        await asyncio.sleep(60)
        tasks = len(fs.content._tasks)
        fs.opened.let_go = counted
        volume.bucket.objects.clear()
        await list_root(volume)
        assert volume.inodes() == COUNT + 1
        for ino in inos[:3]:
            assert (await fs.getattr(volume.request(), ino, None))[0].ino == ino
        for ino in inos[3:20]:
            fs.forget(ino, 1)
        await asyncio.sleep(60)
        assert most == 1
        for ino in inos[:3]:
            assert (await fs.getattr(volume.request(), ino, None))[0].ino == ino
        assert volume.inodes() == 1 + 4

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("taken_over", [False, True])
def test_who_works_in_a_directory_that_others_removed_still_does_after_a_restart(
    tmp_path: Path, taken_over: bool
) -> None:
    volume = make(tmp_path, unseen=False, below="/file")
    inos = volume.run(look_up_all(volume))
    volume.bucket.objects.clear()
    volume.run(list_root(volume))
    volume.die()
    volume.start(taken_over=taken_over)
    if not taken_over:
        assert volume.inodes() == 1
    else:

        async def run() -> None:
            fs = volume.fs
            for ino in inos:
                attr, _ttl = await fs.getattr(volume.request(), ino, None)
                assert (attr.ino, attr.nlink) == (ino, 0)
                items = await fs.readdir(volume.request(), ino, 0, 0, 9, False)
                assert [item.name for item in items] == [b".", b".."]
            for ino in inos:
                fs.forget(ino, 1)
            await asyncio.sleep(60)
            assert volume.inodes() == 1

        volume.run(run())
    volume.stop()


def test_a_directory_can_be_listed_that_was_removed_with_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody works in it. Of too many that are kept, the one above it was the first to go."""
    monkeypatch.setattr(kept, "NAMELESS_KEPT", 8)
    volume = make(tmp_path, unseen=False, below="/sub/file")

    async def run() -> None:
        fs = volume.fs
        tops = await look_up_all(volume)
        entry = await fs.lookup(volume.request(), tops[0], b"sub")
        assert entry.attr is not None
        sub = entry.attr.ino
        volume.bucket.objects.clear()
        await list_root(volume)
        await fs.getattr(volume.request(), sub, None)
        await asyncio.sleep(60)
        assert await volume.catalog.find(tops[0]) is None
        items = await fs.readdir(volume.request(), sub, 0, 0, 9, False)
        assert [(item.name, item.ino) for item in items] == [(b".", sub), (b"..", sub)]

    volume.run(run())
    volume.stop()


def test_of_directories_that_are_let_go_nothing_is_noted_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel had forgotten them before others removed them. When very many inodes are noted,
    each file is read anew."""
    monkeypatch.setattr(kept, "NAMELESS_KEPT", 8)
    volume = make(tmp_path, unseen=False, below="/file")

    async def run() -> None:
        fs = volume.fs
        inos = await look_up_all(volume)
        for ino in inos:
            await fs.refresh.ensure_listed(await volume.catalog.get(ino))
            fs.forget(ino, 1)
        volume.bucket.objects.clear()
        await list_root(volume)
        await asyncio.sleep(60)
        assert sum(ino in fs._stale_pages for ino in inos) == 8

    volume.run(run())
    volume.stop()
