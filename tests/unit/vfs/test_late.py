"""Files that are opened after they lost the name by which they were found."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError
from csi_slayer.vfs import late
from tests.unit.vfs.calls import begin, create, read
from tests.unit.vfs.harness import DRAIN, Volume


async def lose(volume: Volume, *, replaced: bool) -> None:
    if replaced:
        await create(volume, b"new", b"newer")
        await volume.fs.rename(volume.request(), ROOT, b"new", ROOT, b"f", 0)
    else:
        await volume.fs.unlink(volume.request(), ROOT, b"f")


async def come_late(volume: Volume) -> None:
    """Have an open in the root directory fail for once: the kernel tries that again."""
    ino = await create(volume, b"f", b"old")
    await lose(volume, replaced=False)
    with pytest.raises(FsError) as caught:
        await read(volume, ino)
    assert caught.value.errno == errno.ESTALE
    volume.fs.forget(ino, 1)


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("durability", ["close", "writeback"])
@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_next_open_that_comes_late_has_what_was_looked_up(
    tmp_path: Path, passthrough: bool, durability: str, replaced: bool, shared: bool
) -> None:
    """``shared``: another program has it open, and closes it before the open."""
    volume = Volume(tmp_path, passthrough=passthrough, ttl=3600, durability=durability)
    fs = volume.fs

    async def run() -> None:
        await come_late(volume)
        ino = await create(volume, b"f", b"found")
        other = await fs.open(volume.request(), ino, os.O_RDONLY) if shared else None
        await lose(volume, replaced=replaced)
        if other is not None:
            await fs.release(volume.request(), ino, other.fh)
        if replaced:
            assert await fs.drain(DRAIN) == 0
        assert await read(volume, ino) == b"found"
        fs.forget(ino, 1)
        await asyncio.sleep(1.0)  # an instant here
        assert await fs.catalog.find(ino) is None

    volume.run(run())
    volume.stop()
    assert list(volume.bucket.objects) == (["f"] if replaced else [])
    staged = [path for path in (tmp_path / "cache" / "staging").rglob("*") if path.is_file()]
    assert len(staged) <= 1


def test_that_is_for_a_while_and_in_that_directory_alone(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        entry = await fs.mkdir(volume.request(), ROOT, b"d", 0o755)
        assert entry.attr is not None
        await come_late(volume)
        ino = await create(volume, b"f", b"x", parent=entry.attr.ino)
        await fs.unlink(volume.request(), entry.attr.ino, b"f")
        assert await fs.catalog.find(ino) is None
        await asyncio.sleep(late.WATCHED)
        ino = await create(volume, b"f", b"x")
        await lose(volume, replaced=False)
        assert await fs.catalog.find(ino) is None
        assert len(fs.opened) == 0

    volume.run(run())
    volume.stop()


def test_nothing_of_it_is_left_when_the_volume_is_unmounted(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="writeback")
    fs = volume.fs

    async def run() -> None:
        await come_late(volume)
        await create(volume, b"f", b"found")
        await lose(volume, replaced=False)
        assert len(fs.opened) == 1
        await fs.let_go()
        assert len(fs.opened) == 0

    volume.run(run())
    volume.stop()
    assert not [path for path in (tmp_path / "cache" / "staging").rglob("*") if path.is_file()]


def test_attributes_and_targets_of_what_was_just_replaced_are_told(tmp_path: Path) -> None:
    """The kernel asks for them after it has found the name and before it knows that it is gone."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        link = await fs.symlink(volume.request(), ROOT, b"l", b"there")
        assert link.attr is not None
        await fs.unlink(volume.request(), ROOT, b"l")
        assert await fs.readlink(volume.request(), link.attr.ino) == b"there"
        ino, opened = await begin(volume, b"f", b"found")
        await fs.unlink(volume.request(), ROOT, b"f")
        await fs.release(volume.request(), ino, opened.fh)
        attr, _ttl = await fs.getattr(volume.request(), ino, None)
        assert (attr.ino, attr.nlink) == (ino, 0)
        fs.forget(ino, 1)
        assert not [one for one in fs.removed if one == ino]

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("used", [False, True])
def test_attributes_are_told_when_the_moment_is_over_too(tmp_path: Path, used: bool) -> None:
    """Who has it open with O_PATH, of which we are not told, asks for them at any time."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        await come_late(volume)
        ino = await create(volume, b"f", b"found")
        await lose(volume, replaced=True)
        opened = await fs.open(volume.request(), ino, os.O_RDONLY) if used else None
        await asyncio.sleep(late.MOMENT + 0.1)
        if opened is not None:
            await fs.release(volume.request(), ino, opened.fh)
        assert await fs.catalog.find(ino) is None
        attr, _ttl = await fs.getattr(volume.request(), ino, None)
        assert (attr.nlink, attr.size) == (0, len(b"found"))
        fs.forget(ino, 1)
        assert ino not in fs.removed

    volume.run(run())
    volume.stop()


def test_of_what_the_kernel_has_forgotten_nothing_is_remembered(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs = volume.fs

    async def run() -> None:
        await come_late(volume)
        ino = await create(volume, b"f", b"found")
        await lose(volume, replaced=True)
        fs.forget(ino, 1)
        await asyncio.sleep(late.MOMENT + 0.1)
        assert ino not in fs.removed
        assert len(fs.opened) == 0

    volume.run(run())
    volume.stop()
