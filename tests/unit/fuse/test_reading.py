"""Ranges of local files: from the page cache at once, from the disk by a thread."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.fuse.reading import FileReader
from csi_slayer.fuse.splice import SMALLEST
from csi_slayer.vfs.types import FileRange

DATA = os.urandom(1000) * 400


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def load(wanted: FileRange, most: int, spliceable: int = 0) -> Any:
    async def test() -> Any:
        reader = FileReader(1 << 20, lambda: spliceable, asyncio.get_running_loop())
        result = await reader.load(wanted, most)
        return bytes(result) if isinstance(result, memoryview) else result

    return asyncio.run(test())


@pytest.mark.parametrize(
    ("offset", "length", "most"),
    [(0, 100, 100), (0, 100, 60), (399_950, 100, 100), (400_000, 10, 10), (500_000, 10, 10),
     (0, 400_000, 400_000), (0, 0, 10)],
)  # fmt: skip
@pytest.mark.parametrize("cached", ["cached", "nothing cached", "half cached", "cannot tell"])
def test_what_is_asked_for_up_to_the_end_of_the_file(
    file: int, offset: int, length: int, most: int, cached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv

    def limited(fd: int, parts: tuple[memoryview], at: int, flags: int = 0) -> int:
        if flags == os.RWF_NOWAIT:
            if cached == "nothing cached":
                raise BlockingIOError
            if cached == "cannot tell":
                raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT")
            if cached == "half cached":
                return preadv(fd, (parts[0][: len(parts[0]) // 2],), at)
        return preadv(fd, parts, at)

    monkeypatch.setattr(os, "preadv", limited)
    want = DATA[offset : offset + min(length, most)]
    assert load(FileRange(file, offset, length), most) == want


def test_a_large_cached_range_is_left_to_be_spliced(file: int) -> None:
    whole = FileRange(file, 0, 1 << 20)
    assert load(whole, 1 << 20, spliceable=1 << 20) == FileRange(file, 0, len(DATA))
    assert load(whole, 1 << 20, spliceable=SMALLEST) == DATA
    assert load(FileRange(file, 0, SMALLEST - 1), 1 << 20, 1 << 20) == DATA[: SMALLEST - 1]
    near_end = FileRange(file, len(DATA) - 1000, SMALLEST)
    assert load(near_end, 1 << 20, 1 << 20) == DATA[-1000:]


def test_the_descriptor_may_be_closed_while_a_thread_reads(
    file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_cached(*_: Any) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", nothing_cached)
    other = tmp_path / "other"
    other.write_bytes(b"wrong" * 100)

    async def test() -> bytes:
        loop = asyncio.get_running_loop()
        reader = FileReader(1 << 20, lambda: 0, loop)
        fd = os.dup(file)
        reads = asyncio.ensure_future(reader.load(FileRange(fd, 0, 100), 100))
        await asyncio.sleep(0)
        replacement = os.open(other, os.O_RDONLY)
        os.dup2(replacement, fd)
        os.close(replacement)
        result = await reads
        os.close(fd)
        return bytes(result)

    assert asyncio.run(test()) == DATA[:100]


def test_without_descriptors_it_is_read_all_the_same(
    file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing_cached(*_: Any) -> int:
        raise BlockingIOError

    def none_left(*_: Any) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "preadv", nothing_cached)
    monkeypatch.setattr(os, "dup", none_left)
    assert load(FileRange(file, 100, 1000), 1000) == DATA[100:1100]
