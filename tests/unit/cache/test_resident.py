"""What of a file is in the page cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache
from csi_slayer.cache import segment as segment_module
from csi_slayer.cache.resident import resident
from tests.unit.cache.helpers import content, key_of

SIZE = 8 * BLOCK


def drop(fd: int) -> None:
    os.fsync(fd)  # what is dirty stays
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def can_tell(fd: int) -> bool:
    """Since Linux 6.5, and where the pages can leave."""
    drop(fd)
    return resident(fd, SIZE) == 0


def test_pages_are_counted_as_far_as_was_asked(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(SIZE))
    if not can_tell(fd):
        assert resident(fd, SIZE) in (None, SIZE)
        return
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, BLOCK, 0)
    assert resident(fd, SIZE) == BLOCK
    assert resident(fd, 5000) == 5000
    os.close(fd)
    assert resident(fd, SIZE) is None


def test_a_segment_whose_first_bytes_left_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_module, "HEAD", SIZE)
    cache = Cache(tmp_path / "cache", 1 << 30)
    segment = cache.create(key_of("object"), 2 * SIZE)
    assert segment.is_in_memory  # nothing is there to be missed
    body = content("object", SIZE)
    for offset in range(0, SIZE, BLOCK):
        segment.write_block(offset, body[offset : offset + BLOCK])
    assert segment.is_in_memory
    assert can_tell(segment.fd) is not segment.is_in_memory
    segment.close()
    cache.close()
