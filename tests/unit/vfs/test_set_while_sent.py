"""Attributes that are set while a file's bytes are on their way to the store."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.vfs.types import Opened, SetAttr
from tests.unit.vfs.calls import begin
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import MemoryStore

WHEN = 1_222_222_222 * 10**9


def _during_the_upload(
    volume: Volume, ino: int, opened: Opened, change: Callable[[], Awaitable[Any]]
) -> None:
    """Flush, and make the change when the store has the bytes and has not said so."""
    put = MemoryStore.put
    changes = [change]

    async def slow(store: MemoryStore, *args: Any, **kwargs: Any) -> Any:
        answer = await put(store, *args, **kwargs)
        if changes:
            await changes.pop()()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStore, "put", slow)
        volume.run(volume.fs.flush(volume.request(), ino, opened.fh))
    assert not changes


@pytest.mark.parametrize("posix", [True, False])
def test_attributes(tmp_path: Path, posix: bool) -> None:
    volume = Volume(tmp_path / "one", passthrough=False, ttl=3600, posix=posix)
    fs = volume.fs
    ino, opened = volume.run(begin(volume, b"f", b""))
    volume.write(ino, opened, 0, b"data")

    async def change() -> None:
        await fs.setattr(volume.request(), ino, SetAttr(mode=0o600, uid=7, mtime_ns=WHEN))
        await fs.setxattr(volume.request(), ino, b"user.a", b"value", 0)

    _during_the_upload(volume, ino, opened, change)
    volume.run(fs.release(volume.request(), ino, opened.fh))
    assert volume.run(fs.getxattr(volume.request(), ino, b"user.a")) == b"value"
    attr, _ttl = volume.run(fs.getattr(volume.request(), ino, None))
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.mtime_ns) == (0o600, 7, WHEN)
    volume.stop()
    if not posix:
        return
    other = Volume(tmp_path / "two", passthrough=False, ttl=3600, posix=True)
    other.store.bucket = other.bucket = volume.bucket
    attr = other.run(other.fs.lookup(other.request(), ROOT, b"f")).attr  # type: ignore[assignment]
    assert (stat.S_IMODE(attr.mode), attr.uid, attr.mtime_ns) == (0o600, 7, WHEN)
    assert other.run(other.fs.getxattr(other.request(), attr.ino, b"user.a")) == b"value"
    other.stop()


@pytest.mark.parametrize("passthrough", [True, False])
def test_a_write_whose_time_is_set_back_to_that_of_what_was_sent(
    tmp_path: Path, passthrough: bool
) -> None:
    volume = Volume(tmp_path, passthrough=passthrough, ttl=3600)
    fs = volume.fs
    ino, opened = volume.run(begin(volume, b"f", b""))
    volume.write(ino, opened, 0, b"old")
    sent, _ttl = volume.run(fs.getattr(volume.request(), ino, None))

    async def change() -> None:
        if passthrough:
            os.pwrite(volume.kernel.backing[opened.backing_id], b"new", 0)
        else:
            await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"new"))
        await fs.setattr(volume.request(), ino, SetAttr(mtime_ns=sent.mtime_ns))

    _during_the_upload(volume, ino, opened, change)
    volume.run(fs.flush(volume.request(), ino, opened.fh))
    volume.run(fs.release(volume.request(), ino, opened.fh))
    volume.stop()
    assert volume.objects() == {"f": b"new"}
