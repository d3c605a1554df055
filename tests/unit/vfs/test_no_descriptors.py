"""The worker has no descriptor left (RLIMIT_NOFILE): programs are told so, and nothing is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import FsError, SlayerError
from csi_slayer.vfs.types import SetAttr
from tests.support.descriptors import none_left
from tests.unit.vfs.calls import begin, create, read
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob

LARGE = os.urandom(3 << 20)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, hydrate_max=0, durability="writeback")
    volume.bucket.objects["small"] = Blob(b"small", '"one"', 10**18, {})
    volume.bucket.objects["large"] = Blob(LARGE, '"two"', 10**18, {})
    yield volume
    assert volume.events.conflicts == 0
    volume.stop()


Call = Callable[[Volume, dict[str, int]], Awaitable[Any]]


def opening(name: str, flags: int) -> Call:
    return lambda volume, inos: volume.fs.open(volume.request(), inos[name], flags)


def truncating(name: str) -> Call:
    return lambda volume, inos: volume.fs.setattr(volume.request(), inos[name], SetAttr(size=2))


@pytest.mark.parametrize(
    "call",
    [
        lambda volume, inos: begin(volume, b"new", b""),
        opening("small", os.O_RDWR),
        opening("large", os.O_RDWR),
        opening("staged", os.O_RDONLY),
        opening("staged", os.O_RDWR),
        opening("small", os.O_WRONLY | os.O_TRUNC),
        truncating("small"),
        truncating("large"),
        truncating("staged"),
    ],
)
def test_what_needs_one_fails_with_enfile(
    volume: Volume, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = volume.fs

    async def prepared() -> dict[str, int]:
        inos = {"staged": await create(volume, b"staged", b"new")}
        for name in ("small", "large"):
            entry = await fs.lookup(volume.request(), ROOT, name.encode())
            assert entry.attr is not None
            inos[name] = entry.attr.ino
        return inos

    inos = volume.run(prepared())
    for _ in range(2):
        with none_left(), pytest.raises(SlayerError) as failed:
            volume.run(call(volume, inos))  # type: ignore[arg-type]
        assert failed.value.errno == errno.ENFILE
    assert len(fs.opened) == len(fs.handles) == 0
    assert volume.run(read(volume, inos["small"])) == b"small"
    assert volume.run(read(volume, inos["large"])) == LARGE
    assert volume.run(read(volume, inos["staged"])) == b"new"


def test_what_the_store_has_can_be_read(volume: Volume) -> None:
    async def run() -> None:
        for name, body in (("small", b"small"), ("large", LARGE)):
            entry = await volume.fs.lookup(volume.request(), ROOT, name.encode())
            assert entry.attr is not None
            with none_left():
                assert await read(volume, entry.attr.ino) == body

    volume.run(run())


def test_copies_are_left_to_the_kernel_or_refused(volume: Volume) -> None:
    async def run() -> None:
        fs = volume.fs
        source, one = await begin(volume, b"one", b"bytes")
        target, other = await begin(volume, b"other", b"")
        with none_left(), pytest.raises(FsError) as failed:
            await fs.copy_file_range(volume.request(), source, one.fh, 0, target, other.fh, 0, 5)
        assert failed.value.errno == errno.ENFILE
        for ino, opened in ((source, one), (target, other)):
            await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())


def test_fsync_needs_none(volume: Volume) -> None:
    async def run() -> None:
        ino, opened = await begin(volume, b"new", b"bytes")
        with none_left():
            await volume.fs.fsync(volume.request(), ino, opened.fh, False)
            await volume.fs.fsyncdir(volume.request(), ROOT, 0, False)
        await volume.fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
