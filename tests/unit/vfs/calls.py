"""What tests of calls that meet have in common."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.harness import Volume

LARGE = bytes(range(256)) * 2000


class Gate:
    """Holds calls of one method of the store back, before or after their effect."""

    def __init__(self, volume: Volume, method: str, *, after: bool = False) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        original = getattr(volume.store, method)

        async def held(*args: Any, **values: Any) -> Any:
            result = await original(*args, **values) if after else None
            self.reached.set()
            await self.open.wait()
            return result if after else await original(*args, **values)

        setattr(volume.store, method, held)
        self._undo = volume.store, method, original

    def remove(self) -> None:
        """Later calls are not held back any more."""
        setattr(*self._undo)


class ThreadGate:
    """A call of ``real`` that a thread makes: it waits before its effect, so many ``seconds`` at
    most, until :meth:`let_go`; ``reached`` is set when it has begun."""

    def __init__(self, volume: Volume, real: Callable[..., Any], seconds: float = 30) -> None:
        self.reached = asyncio.Event()
        self._loop = volume.loop
        self._open = threading.Event()
        self._real = real
        self._seconds = seconds

    def __call__(self, *args: Any) -> Any:
        self._loop.call_soon_threadsafe(self.reached.set)
        assert self._open.wait(self._seconds)
        return self._real(*args)

    def let_go(self) -> None:
        self._open.set()


async def begin(
    volume: Volume, name: bytes, data: bytes, *, parent: int = ROOT
) -> tuple[int, Opened]:
    """A new file with these bytes, still open."""
    fs = volume.fs
    entry, opened = await fs.create(volume.request(), parent, name, 0o644, os.O_RDWR)
    assert entry.attr is not None
    if data:
        await fs.write(volume.request(), entry.attr.ino, opened.fh, 0, memoryview(data))
    return entry.attr.ino, opened


async def create(volume: Volume, name: bytes, data: bytes, *, parent: int = ROOT) -> int:
    ino, opened = await begin(volume, name, data, parent=parent)
    await volume.fs.flush(volume.request(), ino, opened.fh)
    await volume.fs.release(volume.request(), ino, opened.fh)
    return ino


async def read(volume: Volume, ino: int) -> bytes:
    fs = volume.fs
    opened = await fs.open(volume.request(), ino, os.O_RDONLY)
    data = as_bytes(await fs.read(volume.request(), ino, opened.fh, 0, 1 << 22))
    await fs.release(volume.request(), ino, opened.fh)
    return data
