"""Calls that are cancelled (INTERRUPT) at any of their waits: nothing is left of them, and what
they were to do can be done again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import Staging
from csi_slayer.catalog import ROOT
from csi_slayer.content import staged as staged_files
from csi_slayer.content.ranges import as_bytes
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import ThreadGate, begin, create, read
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob

LARGE = os.urandom(3 << 20)
BODIES = {"small": b"0123456789", "large": LARGE}

Call = Callable[[Volume, int, int], Awaitable[Any]]


def opening(flags: int) -> Call:
    return lambda volume, ino, _fh: volume.fs.open(volume.request(), ino, flags)


async def read_on(volume: Volume, ino: int, fh: int) -> None:
    as_bytes(await volume.fs.read(volume.request(), ino, fh, 1, 1 << 22))


async def written(volume: Volume, ino: int, fh: int) -> None:
    await volume.fs.write(volume.request(), ino, fh, 5, memoryview(b"new"))
    await volume.fs.flush(volume.request(), ino, fh)


def cut(volume: Volume, ino: int, _fh: int) -> Awaitable[Any]:
    return volume.fs.setattr(volume.request(), ino, SetAttr(size=5))


def moved(volume: Volume, _ino: int, _fh: int) -> Awaitable[Any]:
    return volume.fs.rename(volume.request(), ROOT, b"f", ROOT, b"g", 0)


def unlinked(volume: Volume, _ino: int, _fh: int) -> Awaitable[Any]:
    return volume.fs.unlink(volume.request(), ROOT, b"f")


CALLS: dict[str, Call] = {
    "open": opening(os.O_RDONLY),
    "open for writing": opening(os.O_RDWR),
    "open and empty": opening(os.O_RDWR | os.O_TRUNC),
    "cut": cut,
    "read": read_on,
    "write": written,
    "move": moved,
    "unlink": unlinked,
}
ON_OPEN = {"read": os.O_RDONLY, "write": os.O_RDWR}


async def cancelled(call: Awaitable[Any], turns: int) -> bool:
    """Whether the call was cancelled after some turns of the loop, and had not ended by then."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    done = task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return not done


def staged(volume: Volume) -> list[str]:
    """Staged files that are open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(f"{volume.root}/cache/staging/"):
                found.append(path)
    return found


@pytest.mark.parametrize("read_by_others", [False, True])
@pytest.mark.parametrize("size", BODIES)
@pytest.mark.parametrize("hydrate_max", [0, 1 << 30])
@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left(
    tmp_path: Path, call: str, size: str, hydrate_max: int, read_by_others: bool
) -> None:
    body, turns, again = BODIES[size], 0, True
    while again:
        root = tmp_path / str(turns)
        root.mkdir()
        volume = Volume(root, passthrough=False, ttl=3600, hydrate_max=hydrate_max)
        again = volume.run(once(volume, call, body, turns, read_by_others))
        assert staged(volume) == []
        left = set(volume.cache.shared.opened) - {k.hex for k in volume.fs.content.smalls._ready}
        assert not left
        volume.stop()
        assert volume.events.conflicts == 0
        turns += 1
    assert turns > 1


async def once(volume: Volume, call: str, body: bytes, turns: int, read_by_others: bool) -> bool:
    fs = volume.fs
    volume.bucket.objects["f"] = Blob(body, '"one"', 10**18, {})
    entry = await fs.lookup(volume.request(), ROOT, b"f")
    assert entry.attr is not None
    ino = entry.attr.ino
    other = await fs.open(volume.request(), ino, os.O_RDONLY) if read_by_others else None
    fh = 0
    if call in ON_OPEN:
        fh = (await fs.open(volume.request(), ino, ON_OPEN[call])).fh
    was_cancelled = await cancelled(CALLS[call](volume, ino, fh), turns)
    for handle in list(fs.handles):
        if other is None or handle.fh != other.fh:
            await fs.release(volume.request(), ino, handle.fh)
    if other is not None:
        now = as_bytes(await fs.read(volume.request(), ino, other.fh, 0, 1 << 22))
        assert now in states(body)
        await fs.release(volume.request(), ino, other.fh)
    await asyncio.sleep(1)  # what is being uploaded goes on
    assert len(fs.opened) == len(fs.handles) == 0
    for name in (b"f", b"g"):
        found = (await fs.lookup(volume.request(), ROOT, name)).attr
        if found is not None:
            assert await read(volume, found.ino) in states(body)
    return was_cancelled


def states(body: bytes) -> tuple[bytes, ...]:
    """What the file may be: as it was, or as the call makes it."""
    return body, b"", body[:5], body[:5] + b"new" + body[8:]


async def cancelled_in_its_thread(
    volume: Volume, call: str, ino: int, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    """Cancel a call while its thread does something, which is not undone by that."""
    do = getattr(where, name)
    gate = ThreadGate(volume, do, seconds=5)
    monkeypatch.setattr(where, name, gate)
    volume.loop.threaded = True
    task = asyncio.ensure_future(CALLS[call](volume, ino, 0))
    await gate.reached.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    gate.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(where, name, do)
    volume.loop.threaded = False


@pytest.mark.parametrize("call", ["cut", "open and empty"])
def test_a_file_that_was_cut_all_the_same_is_uploaded(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while somebody reads it, who may do that for days."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="writeback")
    fs = volume.fs

    async def scenario() -> None:
        ino, writer = await begin(volume, b"f", b"0123456789")
        reader = await fs.open(volume.request(), ino, os.O_RDONLY)
        await fs.release(volume.request(), ino, writer.fh)
        assert await fs.drain(DRAIN) == 0
        await cancelled_in_its_thread(volume, call, ino, monkeypatch, os, "ftruncate")
        size = 5 if call == "cut" else 0
        assert volume.catalog.used_bytes == size
        assert await fs.drain(DRAIN) == 0
        assert volume.objects() == {"f": b"0123456789"[:size]}
        await fs.release(volume.request(), ino, reader.fh)

    volume.run(scenario())
    volume.stop()


def test_a_file_that_is_cut_when_its_program_is_gone_is_uploaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut of a file that the kernel writes by itself waits for what others write there; and
    who has it open may have it open for days."""
    volume = Volume(tmp_path, passthrough=True, ttl=3600, durability="writeback")
    fs, gate = volume.fs, ThreadGate(volume, os.ftruncate)

    async def scenario() -> None:
        ino, writer = await begin(volume, b"f", b"0123456789")
        reader = await fs.open(volume.request(), ino, os.O_RDONLY)
        assert volume.is_past_us(reader)
        await fs.release(volume.request(), ino, writer.fh)
        assert await fs.drain(DRAIN) == 0
        monkeypatch.setattr(os, "ftruncate", gate)
        volume.loop.threaded = True
        task = asyncio.ensure_future(cut(volume, ino, 0))
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fs.drain(0.2)
        assert volume.objects() == {"f": b"0123456789"}
        gate.let_go()
        for _ in range(5000):
            if volume.catalog.used_bytes == 5:
                break
            await asyncio.sleep(0.001)
        volume.loop.threaded = False
        assert await fs.drain(DRAIN) == 0
        assert volume.objects() == {"f": b"01234"}
        await fs.release(volume.request(), ino, reader.fh)

    volume.run(scenario())
    volume.stop()


@pytest.mark.parametrize("call", ["move", "unlink"])
def test_names_that_were_changed_all_the_same_are_in_the_store(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, removed = volume.fs, "g" if call == "move" else "f"

    async def scenario() -> None:
        for name in {"f", removed}:
            await create(volume, name.encode(), b"bytes of " + name.encode())
        assert await fs.drain(DRAIN) == 0
        # As that of a file which somebody has mapped is.
        inode = await volume.catalog.child(ROOT, removed)
        assert inode is not None
        stage = fs.content.new_stage()
        await stage.close()
        await volume.catalog.update(inode.ino, stage=stage.stage, stamp=None)
        await asyncio.sleep(60)  # nothing wakes the reconciler any more but the call
        await cancelled_in_its_thread(volume, call, 0, monkeypatch, Staging, "remove")

    monkeypatch.setattr(staged_files, "LARGE", 0)
    volume.run(scenario())
    volume.turn(5000)
    assert volume.objects() == ({"g": b"bytes of f"} if call == "move" else {})
    volume.stop()
