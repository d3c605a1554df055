"""What is done with names that others removed, very many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from csi_slayer.catalog import ROOT, Inode, vanishing
from csi_slayer.vfs import refresh
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
        slow = SimpleNamespace(sleep=lambda _: asyncio.sleep(3))
        monkeypatch.setattr(vanishing, "asyncio", slow)
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
