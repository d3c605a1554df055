"""Local files of the cache directory, whatever its file system."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.cache import Cache
from csi_slayer.content.staged import (
    KEEP_SIZE,
    LARGE,
    ZERO_RANGE,
    StagedFile,
    fallocate,
    remove_staged,
    write_fully,
)
from csi_slayer.errors import CacheFull

PAGE = 4096


@pytest.fixture(params=["disk", "memory"])
def fd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """A file of three pages; tmpfs, which has the one in memory, makes no zeros by itself."""
    if request.param == "disk":
        fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    else:
        fd = os.memfd_create("file")
    os.write(fd, b"x" * 3 * PAGE)
    yield fd
    os.close(fd)


def test_zeros_within_a_file(fd: int) -> None:
    fallocate(fd, ZERO_RANGE | KEEP_SIZE, PAGE - 10, PAGE)
    wanted = b"x" * (PAGE - 10) + bytes(PAGE) + b"x" * (PAGE + 10)
    assert os.pread(fd, 4 * PAGE, 0) == wanted
    assert os.fstat(fd).st_blocks * 512 >= 3 * PAGE, "its room is kept"


@pytest.mark.parametrize("mode", [ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_zeros_beyond_the_end(fd: int, mode: int) -> None:
    fallocate(fd, mode, 2 * PAGE, 2 * PAGE)
    size = (3 if mode & KEEP_SIZE else 4) * PAGE
    assert os.pread(fd, 9 * PAGE, 0) == b"x" * 2 * PAGE + bytes(size - 2 * PAGE)


def test_what_finds_room_is_written(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As write(2): who writes the rest again has nothing twice."""
    room = [PAGE, 10]
    pwrite = os.pwrite

    def crowded(fd: int, data: memoryview, offset: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data[: room.pop(0)], offset)

    monkeypatch.setattr(os, "pwrite", crowded)
    data = memoryview(b"y" * 2 * PAGE)
    assert write_fully(fd, 5, data) == PAGE + 10
    assert os.pread(fd, 9 * PAGE, 0) == b"x" * 5 + b"y" * (PAGE + 10) + b"x" * (2 * PAGE - 15)
    with pytest.raises(CacheFull):
        write_fully(fd, 0, data)


def test_a_file_that_has_pages_is_cut_in_a_thread(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be on their way to a busy disk, which the call waits for."""
    threads: list[bool] = []
    ftruncate = os.ftruncate

    def watched(fd: int, size: int) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        ftruncate(fd, size)

    monkeypatch.setattr(os, "ftruncate", watched)
    file = StagedFile("s", "/nowhere", fd)
    sizes = []
    for size in (5, 0, 7):
        asyncio.run(file.truncate(size))
        sizes.append(file.size)
    assert sizes == [5, 0, 7]
    assert threads == [False, False, True]


@pytest.mark.parametrize(("size", "on_the_loop"), [(5, True), (LARGE, False)])
def test_a_large_file_is_removed_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, on_the_loop: bool
) -> None:
    staging = Cache(tmp_path / "cache", 1 << 30).staging("v")
    stage = staging.create()
    os.write(stage.fd, bytes(size))
    os.close(stage.fd)
    threads: list[bool] = []
    unlink = os.unlink

    def watched(path: str) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        unlink(path)

    with monkeypatch.context() as watching:
        watching.setattr(os, "unlink", watched)
        asyncio.run(remove_staged(staging, stage.id))
    assert set(threads) == {on_the_loop}
    assert not stage.path.exists()
    asyncio.run(remove_staged(staging, stage.id))
