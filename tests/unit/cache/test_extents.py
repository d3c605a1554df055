"""Room for a piece before it is written: the bytes are the same with it and without."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache
from csi_slayer.cache.extents import Extents
from csi_slayer.cache.fresh import PIECE
from tests.unit.cache.helpers import content, data_path, key_of


@pytest.fixture
def ramfs(tmp_path: Path) -> Iterator[Path]:
    """A file system that cannot allocate."""
    subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_room_is_taken_and_nothing_else_changes(tmp_path: Path) -> None:
    path, extents = tmp_path / "file", Extents()
    path.write_bytes(b"x" * 4096)
    os.truncate(path, 2 * PIECE)
    fd = os.open(path, os.O_RDWR)
    extents.take(fd, 0, PIECE)
    assert os.fstat(fd).st_blocks * 512 >= PIECE
    assert os.fstat(fd).st_blocks * 512 < 2 * PIECE
    extents.take(fd, 2 * PIECE, PIECE)
    assert os.fstat(fd).st_size == 2 * PIECE
    os.close(fd)
    assert path.read_bytes() == b"x" * 4096 + bytes(2 * PIECE - 4096)
    assert extents.possible


def test_a_failure_is_left_to_the_write(tmp_path: Path) -> None:
    extents = Extents()
    fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_CREAT)
    extents.take(fd, 0, PIECE)
    os.close(fd)
    assert extents.possible


def test_where_it_cannot_be_done_it_is_tried_once(ramfs: Path) -> None:
    extents = Extents()
    fd = os.open(ramfs / "file", os.O_RDWR | os.O_CREAT)
    extents.take(fd, 0, PIECE)
    assert not extents.possible
    assert os.fstat(fd).st_size == 0
    os.close(fd)


@pytest.mark.parametrize("possible", [True, False])
@pytest.mark.parametrize("direct", [True, False])
def test_pieces_are_the_same_bytes(cache: Cache, possible: bool, direct: bool) -> None:
    cache.shared.extents.possible = possible
    cache.shared.direct.now = direct
    size = 2 * PIECE + BLOCK + 10
    data = content("object", size)
    segment = cache.create(key_of("object"), size)
    sink = segment.sink(lambda offset, length: None)
    for offset in range(0, size, PIECE):
        part = data[offset : offset + PIECE]
        room = sink.room(len(part))
        view = memoryview(bytearray(len(part))) if room is None else room
        assert (room is not None) is direct
        view[:] = part
        sink.write(offset, view)
    assert segment.complete
    assert data_path(cache, "object").read_bytes() == data
    assert segment.verify() == 0
    segment.close()
