"""What fsync of a directory waits for."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.store.base import ObjectInfo
from tests.unit.vfs.calls import create
from tests.unit.vfs.harness import DRAIN, Volume

MANY = 1100
EXCHANGE = 2


async def make_directory(volume: Volume, parent: int, name: bytes) -> int:
    entry = await volume.fs.mkdir(volume.request(), parent, name, 0o755)
    assert entry.attr is not None
    return entry.attr.ino


def test_it_waits_for_what_is_in_it_however_much_is_pending_below(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        top = await make_directory(volume, ROOT, b"top")
        below = await make_directory(volume, top, b"below")
        for number in range(MANY):
            name = b"f%d" % number
            await fs.mknod(volume.request(), below, name, stat.S_IFREG | 0o644, 0)
        await fs.mknod(volume.request(), top, b"last", stat.S_IFREG | 0o644, 0)
        await fs.fsyncdir(volume.request(), top, 0, False)
        assert {"top/", "top/below/", "top/last"} <= set(volume.bucket.objects)

    volume.run(scenario())
    volume.stop()


def test_it_waits_for_all_that_is_in_it(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        for number in range(MANY):
            await fs.mknod(volume.request(), ROOT, b"%d" % number, stat.S_IFREG | 0o644, 0)
        await fs.fsyncdir(volume.request(), ROOT, 0, False)
        assert len(volume.bucket.objects) == MANY

    volume.run(scenario())
    volume.stop()


@pytest.mark.parametrize("within", ["", "top"])
@pytest.mark.parametrize("where", ["here", "from", "to", "removed"])
def test_it_waits_for_all_that_was_in_a_directory_that_was_renamed_or_removed(
    tmp_path: Path, within: str, where: str
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        top = await make_directory(volume, ROOT, b"top") if within else ROOT
        other = await make_directory(volume, top if where == "from" else ROOT, b"other")
        old = other if where == "to" else top
        old_dir = await make_directory(volume, old, b"old")
        deep = await make_directory(volume, old_dir, b"deep")
        await make_directory(volume, deep, b"empty")
        files = [await create(volume, b"%d" % number, b"x", parent=deep) for number in range(40)]
        assert await fs.drain(DRAIN) == 0
        if where == "removed":
            for number in range(len(files)):
                await fs.unlink(volume.request(), deep, b"%d" % number)
            await fs.rmdir(volume.request(), deep, b"empty")
            await fs.rmdir(volume.request(), old_dir, b"deep")
            await fs.rmdir(volume.request(), old, b"old")
        else:
            target = other if where == "from" else top
            await fs.rename(volume.request(), old, b"old", target, b"new", 0)
        await fs.fsyncdir(volume.request(), top, 0, False)
        keys = set(volume.bucket.objects)
        if where != "to":
            assert not [key for key in keys if "old/" in key]
        if where != "removed":
            new = {key.partition("new/")[2] for key in keys if "new/" in key}
            assert new >= {"", "deep/empty/", *(f"deep/{number}" for number in range(40))}

    volume.run(scenario())
    volume.stop()


def test_it_waits_for_the_links_of_a_tree_that_was_renamed_before_they_were_stored(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def scenario() -> None:
        made = await make_directory(volume, ROOT, b"made")
        deep = await make_directory(volume, made, b"deep")
        for number in range(100):
            await fs.symlink(volume.request(), deep, b"%d" % number, b"target")
        await fs.rename(volume.request(), ROOT, b"made", ROOT, b"shown", 0)
        await fs.fsyncdir(volume.request(), ROOT, 0, False)
        assert {f"shown/deep/{number}" for number in range(100)} <= set(volume.bucket.objects)

    volume.run(scenario())
    volume.stop()


def test_it_deletes_no_copy_that_is_being_made_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, copy = volume.fs, volume.store.copy
    syncs: list[asyncio.Task[None]] = []

    async def slow_copy(source: str, target: str, **rest: Any) -> ObjectInfo:
        info = await copy(source, target, **rest)
        if target.startswith(".slayerfs/moving/"):
            sync = fs.fsyncdir(volume.request(), ROOT, 0, False)
            syncs.append(asyncio.get_running_loop().create_task(sync))
            for _ in range(100):  # the answer takes longer than all that the sync can do
                await asyncio.sleep(0)
        return info

    async def scenario() -> None:
        await create(volume, b"a", b"one")
        await create(volume, b"b", b"other")
        assert await fs.drain(DRAIN) == 0
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", EXCHANGE)
        assert await fs.drain(DRAIN) == 0
        await asyncio.gather(*syncs)

    monkeypatch.setattr(volume.store, "copy", slow_copy)
    volume.run(scenario())
    assert syncs
    assert volume.objects() == {"a": b"other", "b": b"one"}
    volume.stop()


def test_it_ends_while_one_after_the_other_is_made_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, put, made = volume.fs, volume.store.put, 0

    async def scenario() -> None:
        deep = await make_directory(volume, ROOT, b"deep")

        async def another_meanwhile(*args: Any, **options: Any) -> ObjectInfo:
            nonlocal made
            made += made < 1000
            if made < 1000:
                await fs.mkdir(volume.request(), deep, b"%06d" % made, 0o755)
            return await put(*args, **options)

        monkeypatch.setattr(volume.store, "put", another_meanwhile)
        await fs.fsyncdir(volume.request(), ROOT, 0, False)
        assert "deep/" in volume.bucket.objects
        assert made < 100

    volume.run(scenario())
    volume.stop()
