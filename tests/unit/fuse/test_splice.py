"""Splicing ranges of files, with a socket in the kernel's place."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.fuse import splice
from csi_slayer.fuse.init import LARGEST
from csi_slayer.fuse.splice import SMALLEST, PageCache, Splicer
from csi_slayer.vfs.types import FileRange

DATA = os.urandom(1000) * 300


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.settimeout(10)
    device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    with ours, device:
        yield ours, device


@pytest.fixture
def splicer(ends: tuple[socket.socket, socket.socket]) -> Iterator[Splicer]:
    splicer = Splicer(ends[1].fileno())
    assert splicer.largest == 0
    splicer.open()
    assert splicer.largest >= SMALLEST
    yield splicer
    splicer.close()
    assert splicer.largest == 0


def receive(end: socket.socket, size: int) -> bytes:
    return end.recv(size, socket.MSG_WAITALL)


def test_what_was_just_written_is_in_the_page_cache(file: int) -> None:
    cache = PageCache()
    assert cache.holds(FileRange(file, 0, len(DATA)))
    assert cache.holds(FileRange(file, 5000, 1))


def test_a_hole_beyond_the_cached_pages_is_not(file: int) -> None:
    os.ftruncate(file, 10 << 20)
    assert not PageCache().holds(FileRange(file, 0, 10 << 20))


@pytest.mark.parametrize("missing", [0, 1])
def test_the_kernel_counts_pages_of_its_own_size(
    monkeypatch: pytest.MonkeyPatch, file: int, missing: int
) -> None:
    """As on arm64 with 64 KiB."""

    def cachestat(_number: int, _fd: int, wanted: Any, found: Any, _flags: int) -> int:
        offset, length = wanted._obj
        found._obj[0] = (offset + length - 1 >> 16) - (offset >> 16) + 1 - missing
        return 0

    monkeypatch.setattr(mmap, "PAGESIZE", 64 << 10)
    monkeypatch.setattr(splice, "_syscall", cachestat)
    assert PageCache().holds(FileRange(file, 100, 200_000)) == (missing == 0)
    assert PageCache().holds(FileRange(file, 0, 1)) == (missing == 0)


def test_what_is_sent_fits_a_pipe_of_larger_pages(
    monkeypatch: pytest.MonkeyPatch, splicer: Splicer
) -> None:
    """The header takes one, and what begins within a page one more."""
    monkeypatch.setattr(mmap, "PAGESIZE", 64 << 10)
    splicer.close()
    splicer.open()
    assert splicer.largest == (1 << 20) - (128 << 10) == LARGEST


def test_a_reply_is_header_and_data(
    splicer: Splicer, ends: tuple[socket.socket, socket.socket], file: int
) -> None:
    assert splicer.send(99, FileRange(file, 100, 150_000))
    reply = receive(ends[0], 16 + 150_000)
    assert reply == struct.pack("<IiQ", 16 + 150_000, 0, 99) + DATA[100:150_100]


def test_a_file_that_is_shorter_leaves_nothing_in_the_pipe(
    splicer: Splicer, ends: tuple[socket.socket, socket.socket], file: int
) -> None:
    assert not splicer.send(1, FileRange(file, 0, len(DATA) + 1))
    assert splicer.send(2, FileRange(file, 0, 200_000))
    assert receive(ends[0], 16 + 200_000)[16:] == DATA[:200_000]


def test_after_a_refused_reply_the_next_one_is_whole(
    ends: tuple[socket.socket, socket.socket], file: int, tmp_path: Path
) -> None:
    kernel, device = ends
    number = os.open(tmp_path, os.O_RDONLY)  # a directory takes no data
    splicer = Splicer(number)
    splicer.open()
    with pytest.raises(OSError):
        splicer.send(1, FileRange(file, 0, 200_000))
    os.dup2(device.fileno(), number)
    assert splicer.send(2, FileRange(file, 0, 200_000))
    assert receive(kernel, 16 + 200_000)[16:] == DATA[:200_000]
    splicer.close()
    os.close(number)


def test_without_descriptors_nothing_is_spliced(
    splicer: Splicer, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was to be is sent in another way."""

    def none_left(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pipe2", none_left)
    assert not splicer.send(1, FileRange(file, 0, len(DATA) + 1))
    assert splicer.largest == 0
