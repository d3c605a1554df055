"""What an object says of itself outlives a change by a node that had not read it."""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import StoreUnavailable
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore

METADATA = {
    "mode": str(stat.S_IFREG | 0o600),
    "uid": "1000",
    "gid": "1001",
    "slayerfs-xattrs": '{"dXNlci5h":"dmFsdWU="}',
}


def _volume(path: Path) -> tuple[Volume, int]:
    volume = Volume(path, passthrough=False, ttl=3600)
    volume.bucket.objects["f"] = Blob(b"old content", '"1"', 10**18, dict(METADATA))
    entry = volume.run(volume.fs.lookup(volume.request(), ROOT, b"f"))
    assert entry.attr is not None
    return volume, entry.attr.ino


async def _rewrite(volume: Volume, ino: int, flags: int) -> None:
    fs = volume.fs
    opened = await fs.open(volume.request(), ino, os.O_RDWR | flags)
    await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"new"))
    await fs.flush(volume.request(), ino, opened.fh)
    await fs.release(volume.request(), ino, opened.fh)


async def _open_first(volume: Volume, ino: int) -> None:
    await _rewrite(volume, ino, 0)


async def _truncated(volume: Volume, ino: int) -> None:
    await _rewrite(volume, ino, os.O_TRUNC)


async def _mode_set(volume: Volume, ino: int) -> None:
    await volume.fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
    await _rewrite(volume, ino, os.O_TRUNC)


async def _cut(volume: Volume, ino: int) -> None:
    await volume.fs.setattr(volume.request(), ino, SetAttr(size=0))


async def _attribute_set(volume: Volume, ino: int) -> None:
    await volume.fs.setxattr(volume.request(), ino, b"user.a", b"value", 0)
    await _rewrite(volume, ino, os.O_TRUNC)


@pytest.mark.parametrize("change", [_open_first, _truncated, _mode_set, _cut, _attribute_set])
def test_attributes_that_nobody_had_read(
    tmp_path: Path, change: Callable[[Volume, int], Awaitable[None]]
) -> None:
    volume, ino = _volume(tmp_path)

    async def run() -> None:
        await change(volume, ino)

    volume.run(run())
    volume.stop()
    blob = volume.bucket.objects["f"]
    assert blob.body != b"old content"
    assert {name: blob.metadata.get(name) for name in METADATA} == METADATA


def test_a_change_does_not_wait_long_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, ino = _volume(tmp_path)

    async def away(store: MemoryStore, key: str) -> Any:
        raise StoreUnavailable(key)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "head", away)
        volume.run(_rewrite(volume, ino, os.O_TRUNC))
    volume.stop()
    assert volume.objects() == {"f": b"new"}
