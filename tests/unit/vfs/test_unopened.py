"""Reading without an open, as the kernel does on volumes where it need not ask."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.vfs import unopened
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


def test_more_readers_than_files_are_kept_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets its own file's bytes, whatever is closed meanwhile, and nothing stays open."""
    monkeypatch.setattr(unopened, "UNOPENED_KEPT", 3)
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    sizes = [10, 5_000, 200_000]
    bodies = {f"f{n}": os.urandom(sizes[n % 3]) for n in range(30)}
    for key, body in bodies.items():
        volume.bucket.objects[key] = Blob(body, f'"{key}"', 10**18, {})

    async def read(key: str) -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, key.encode())
        assert entry.attr is not None
        for offset in (0, len(bodies[key]) // 2):
            result = await fs.read(volume.request(), entry.attr.ino, 0, offset, 1 << 20)
            assert as_bytes(result) == bodies[key][offset:]

    async def crowd() -> None:
        await asyncio.gather(*(read(key) for key in [*bodies, *bodies]))

    for _ in range(3):
        volume.run(crowd())
        assert len(volume.fs.opened) <= 3
    before = len(os.listdir("/proc/self/fd"))
    volume.run(crowd())
    assert len(os.listdir("/proc/self/fd")) == before
    volume.stop()


def read_each(volume: Volume, names: list[str], pause: float = 0.0) -> None:
    async def run() -> None:
        for name in names:
            entry = await volume.fs.lookup(volume.request(), ROOT, name.encode())
            assert entry.attr is not None
            await volume.fs.read(volume.request(), entry.attr.ino, 0, 0, 4096)
            await asyncio.sleep(pause)

    volume.run(run())


def test_what_nobody_reads_any_more_can_be_evicted(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    names = [f"f{n}" for n in range(20)]
    for name in names:
        volume.bucket.objects[name] = Blob(bytes(2 << 20), f'"{name}"', 10**18, {})
    read_each(volume, names)
    assert len(volume.fs.opened) == len(names)
    volume.run(asyncio.sleep(unopened.IDLE + 1))
    read_each(volume, names[:1])
    volume.run(asyncio.sleep(unopened.IDLE - 1))
    assert len(volume.fs.opened) == 1
    volume.run(asyncio.sleep(unopened.IDLE + 1))
    assert len(volume.fs.opened) == 0
    volume.stop()


def test_no_more_than_is_being_read_stays_open_of_what_would_fill_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    monkeypatch.setattr(volume.fs._unopened, "_room", 8 << 20)
    names = [f"f{n}" for n in range(20)]
    for name in names:
        volume.bucket.objects[name] = Blob(bytes(2 << 20), f'"{name}"', 10**18, {})
    read_each(volume, names, pause=unopened.PAUSED / 2)
    assert 3 <= len(volume.fs.opened) <= 5
    volume.stop()


def test_what_others_replaced_can_be_evicted_later(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.kernel.opens_unseen = True
    volume.bucket.objects["f"] = Blob(b"old", '"old"', 10**18, {})
    read_each(volume, ["f"])

    async def replace() -> int:
        entry = await volume.fs.lookup(volume.request(), ROOT, b"f")
        assert entry.attr is not None
        volume.bucket.objects["f"] = Blob(b"newer", '"new"', 2 * 10**18, {})
        await volume.fs.refresh.name(await volume.fs.catalog.get(ROOT), "f", force=True)
        await asyncio.sleep(10 * unopened.IDLE)
        return entry.attr.ino

    ino = volume.run(replace())
    record = volume.fs.opened.get(ino)
    assert record is not None
    assert record.file is not None
    volume.run(asyncio.sleep(unopened.LOST_IDLE))
    assert record.file is None
    assert volume.fs.opened.get(ino) is record  # as long as the kernel may know it
    volume.stop()


def test_a_slow_store_does_not_have_a_reader_lose_what_is_read_ahead_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that waits for the store for long is no pause of its reader."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    monkeypatch.setattr(volume.fs._unopened, "_room", 1 << 20)
    body, fetch, requests = os.urandom(8 << 20), volume.store.fetch, []
    names = [f"f{n}" for n in range(100)]
    for name in names:
        volume.bucket.objects[name] = Blob(b"content", f'"{name}"', 10**18, {})
    for name in ("alone", "in a crowd"):
        volume.bucket.objects[name] = Blob(body, f'"{name}"', 10**18, {})

    async def slow(key: str, **options: Any) -> Any:
        requests.append(key)
        await asyncio.sleep(2 * unopened.PAUSED)
        return await fetch(key, **options)

    monkeypatch.setattr(volume.store, "fetch", slow)

    async def read_all(name: str) -> None:
        entry = await volume.fs.lookup(volume.request(), ROOT, name.encode())
        assert entry.attr is not None
        for start in range(0, len(body), 131072):
            read = volume.fs.read(volume.request(), entry.attr.ino, 0, start, 131072)
            assert as_bytes(await read) == body[start : start + 131072]

    async def crowd() -> None:
        reader = asyncio.create_task(read_all("in a crowd"))
        for name in names:
            entry = await volume.fs.lookup(volume.request(), ROOT, name.encode())
            assert entry.attr is not None
            await volume.fs.read(volume.request(), entry.attr.ino, 0, 0, 4096)
            await asyncio.sleep(unopened.PAUSED / 5)
        await reader

    volume.run(read_all("alone"))
    volume.run(crowd())
    assert requests.count("in a crowd") == requests.count("alone")
    volume.stop()
