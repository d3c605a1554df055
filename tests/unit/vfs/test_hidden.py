"""An object and others below its key, while the store has not followed yet. MinIO lists nothing of
what is below an object's key but the mark; other services list the key both as an object and as a
directory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT, vanishing
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.calls import Gate, create, read
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

EXCHANGE = 2
STEPS = 20


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """Over a store as MinIO; four names make a crowd."""
    monkeypatch.setattr(vanishing, "STEP", 4)
    return Volume(tmp_path, passthrough=False, ttl=0, hides=True)


async def mkdir(volume: Volume, name: bytes, parent: int = ROOT) -> int:
    entry = await volume.fs.mkdir(volume.request(), parent, name, 0o755)
    assert entry.attr is not None
    return entry.attr.ino


async def shown(volume: Volume, ino: int = ROOT, path: str = "") -> dict[str, bytes]:
    """All files, as somebody sees them who walks through the directories."""
    found: dict[str, bytes] = {}
    for item in await volume.fs.readdir(volume.request(), ino, 0, 2, 99, False):
        entry = await volume.fs.lookup(volume.request(), ino, item.name)
        assert entry.attr is not None
        name = path + item.name.decode()
        if entry.attr.mode & 0o170000 == 0o040000:
            found |= await shown(volume, entry.attr.ino, name + "/")
        else:
            found[name] = await read(volume, entry.attr.ino)
    return found


async def removed_while_open(volume: Volume, name: bytes, parent: int = ROOT) -> Callable[[], Any]:
    """A file that is made, opened and removed, so that its object stays in the store. What it
    returns closes the file."""
    ino = await create(volume, name, b"old", parent=parent)
    opened: Opened = await volume.fs.open(volume.request(), ino, os.O_RDONLY)
    await volume.fs.unlink(volume.request(), parent, name)

    async def close() -> None:
        await volume.fs.release(volume.request(), ino, opened.fh)

    return close


async def directory_in_place_of_a_file(
    volume: Volume, count: int
) -> tuple[Callable[[], Any], dict[str, bytes]]:
    """One without a mark; the file is still open."""
    close = await removed_while_open(volume, b"a")
    for number in range(count):
        volume.bucket.objects[f"d/s/{number}"] = Blob(b"%d" % number, f'"{number}"', 10**18, {})
    await volume.fs.lookup(volume.request(), ROOT, b"d")
    await volume.fs.rename(volume.request(), ROOT, b"d", ROOT, b"a", 0)
    await asyncio.sleep(1)
    files = {f"a/s/{number}": b"%d" % number for number in range(count)}
    assert volume.objects() == files | {"a": b"old"}
    assert [row.key for row in await volume.catalog.pendings("", 9)] == ["a"]
    return close, files


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("who", ["walks", "asks"])
def test_what_is_in_a_directory_in_place_of_a_file_that_is_still_open_stays(
    volume: Volume, who: str, count: int
) -> None:
    async def run() -> None:
        close, files = await directory_in_place_of_a_file(volume, count)
        for _ in range(2):
            if who == "asks":
                root = await volume.catalog.get(ROOT)
                await volume.fs.refresh.name(root, "a", force=True)
            assert await shown(volume) == files
        await close()
        await asyncio.sleep(1)
        assert await shown(volume) == files
        assert not await volume.catalog.any_pending()
        assert "a" not in volume.objects()

    volume.run(run())
    volume.stop()


async def listed(volume: Volume, a: int) -> None:
    await volume.fs.refresh.ensure_listed(await volume.catalog.get(a))


async def listed_above(volume: Volume, a: int) -> None:
    await volume.fs.refresh.ensure_listed(await volume.catalog.get(ROOT))


async def asked_for(volume: Volume, a: int) -> None:
    await volume.fs.refresh.name(await volume.catalog.get(ROOT), "a", force=True)


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize("looked", [listed, listed_above, asked_for])
def test_it_stays_though_the_object_was_deleted_before_the_answer_came(
    volume: Volume, looked: Callable[[Volume, int], Coroutine[Any, Any, None]], count: int
) -> None:
    async def run() -> None:
        close, files = await directory_in_place_of_a_file(volume, count)
        before = [await volume.catalog.resolve(key) for key in ("a/", *files)]
        a = before[0]
        assert a is not None
        gate = Gate(volume, "list_page", after=True)
        looking = asyncio.ensure_future(looked(volume, a.ino))
        await gate.reached.wait()
        gate.remove()
        await close()
        await asyncio.sleep(1)
        assert "a" not in volume.objects()
        assert not await volume.catalog.any_pending()
        gate.open.set()
        await looking
        after = [await volume.catalog.resolve(key) for key in ("a/", *files)]
        assert [one and one.ino for one in after] == [one and one.ino for one in before]
        assert await shown(volume) == files

    volume.run(run())
    volume.stop()


def test_what_others_removed_goes_once_nothing_hides_it(volume: Volume) -> None:
    async def run() -> None:
        close, _files = await directory_in_place_of_a_file(volume, 3)
        del volume.bucket.objects["a/s/1"]
        assert (await shown(volume)).keys() == {"a/s/0", "a/s/2"}  # its own directory tells
        await close()
        await asyncio.sleep(1)
        volume.bucket.objects.clear()
        assert await shown(volume) == {}
        assert await volume.catalog.child(ROOT, "a") is None

    volume.run(run())
    volume.stop()


@pytest.mark.parametrize("hides", [False, True])
def test_a_directory_and_a_file_change_places_and_all_is_there_at_each_step(
    tmp_path: Path, hides: bool
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0, hides=hides)

    async def run() -> None:
        d, e = await mkdir(volume, b"d"), await mkdir(volume, b"e")
        s = await mkdir(volume, b"s", d)
        for number in range(3):
            await create(volume, b"%d" % number, b"in s", parent=s)
        await create(volume, b"f", b"the file", parent=e)
        await create(volume, b"g", b"stays", parent=e)
        await asyncio.sleep(1)
        for place in ("e/f", "d"):
            await volume.fs.rename(volume.request(), ROOT, b"d", e, b"f", EXCHANGE)
            file = "d" if place == "e/f" else "e/f"
            files = {file: b"the file", "e/g": b"stays"}
            files |= {f"{place}/s/{number}": b"in s" for number in range(3)}
            gates = [Gate(volume, "delete"), Gate(volume, "delete_many")]
            for _ in range(STEPS):
                assert await shown(volume) == files
                await asyncio.sleep(0.002)
            for gate in gates:
                gate.remove()
                gate.open.set()
            while await volume.catalog.any_pending():
                assert await shown(volume) == files
                await asyncio.sleep(0.002)
            assert await shown(volume) == files

    volume.run(run())
    volume.stop()


def test_a_file_stays_one_while_something_of_a_directory_of_its_name_is_still_open(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=0)

    async def run() -> None:
        d = await mkdir(volume, b"d")
        close = await removed_while_open(volume, b"x", d)
        await volume.fs.rename(volume.request(), ROOT, b"d", ROOT, b"e", 0)
        ino = await create(volume, b"d", b"a file")
        await asyncio.sleep(1)
        assert volume.objects().keys() == {"d", "d/x", "e/"}
        for _ in range(2):
            assert await shown(volume) == {"d": b"a file"}
        root = await volume.catalog.get(ROOT)
        await volume.fs.refresh.name(root, "d", force=True)
        found = await volume.catalog.child(ROOT, "d")
        assert found is not None and found.ino == ino
        await close()

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"d": b"a file", "e/": b""}
