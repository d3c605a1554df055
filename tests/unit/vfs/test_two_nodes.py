"""Two nodes, each with its own cache and catalog, on one bucket."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT
from tests.unit.vfs import calls
from tests.unit.vfs.harness import Volume


def _nodes(tmp_path: Path, *, posix: bool) -> tuple[Volume, Volume]:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one = Volume(tmp_path / "one", passthrough=False, ttl=0, posix=posix)
    other = Volume(tmp_path / "other", passthrough=False, ttl=0, posix=posix)
    other.bucket = other.store.bucket = one.bucket
    return one, other


async def _look(volume: Volume, name: bytes) -> int:
    entry = await volume.fs.lookup(volume.request(), ROOT, name)
    assert entry.attr is not None
    return entry.attr.ino


async def _rewrite(volume: Volume, ino: int, data: bytes) -> None:
    fs = volume.fs
    opened = await fs.open(volume.request(), ino, os.O_RDWR | os.O_TRUNC)
    await fs.write(volume.request(), ino, opened.fh, 0, memoryview(data))
    await fs.flush(volume.request(), ino, opened.fh)
    await fs.release(volume.request(), ino, opened.fh)


@pytest.mark.parametrize("posix", [False, True])
def test_an_attribute_that_the_other_node_removed_does_not_come_back(
    tmp_path: Path, posix: bool
) -> None:
    one, other = _nodes(tmp_path, posix=posix)
    ino = one.run(calls.create(one, b"f", b"1"))
    one.run(one.fs.setxattr(one.request(), ino, b"user.k", b"v", 0))
    one.run(_rewrite(one, ino, b"2"))

    there = other.run(_look(other, b"f"))
    other.run(other.fs.removexattr(other.request(), there, b"user.k"))
    other.run(_rewrite(other, there, b"3"))

    ino = one.run(_look(one, b"f"))
    assert one.run(calls.read(one, ino)) == b"3"
    assert one.run(one.fs.listxattr(one.request(), ino)) == []
    one.run(_rewrite(one, ino, b"4"))
    assert "slayerfs-xattrs" not in one.bucket.objects["f"].metadata
    one.stop()
    other.stop()


def test_a_late_answer_about_an_old_version_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    one, other = _nodes(tmp_path, posix=False)
    there = other.run(calls.create(other, b"f", b"1"))
    other.run(other.fs.setxattr(other.request(), there, b"user.k", b"v", 0))
    other.run(_rewrite(other, there, b"2"))

    async def meet() -> int:
        ino = await _look(one, b"f")
        gate = calls.Gate(one, "head", after=True)
        known = asyncio.create_task(one.fs.known(await one.catalog.get(ino)))
        await gate.reached.wait()
        gate.remove()
        # Both nodes' calls in one loop: what the other node would do.
        await one.store.put("f", b"new", metadata={})
        await _look(one, b"f")
        gate.open.set()
        await known
        return ino

    ino = one.run(meet())
    assert one.run(one.fs.listxattr(one.request(), ino)) == []
    one.stop()
    other.stop()
