"""What the kernel is told, at the next open, of a file that others have changed."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import Any

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Opened
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


def test_who_appends_is_sent_back_once_however_slow_the_store_is(tmp_path: Path) -> None:
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
        volume.store.head = slowly  # type: ignore[method-assign]
        for version in (2, 3):
            put(volume, "log", version)
            for _ in range(2):
                ino, opened = await open_as_linux(volume, "log", os.O_WRONLY | os.O_APPEND)
                await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
