"""A staged file becomes a segment: by one rename, so that a crash leaves the one or the other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import BLOCK, SMALL, Cache, Governor
from csi_slayer.cache.blockmap import BlockMap
from csi_slayer.cache.header import Header
from csi_slayer.cache.sweep import record_of, sweep
from csi_slayer.errors import CacheError, CacheFull
from tests.unit.cache.helpers import content, key_of, map_path, overwrite, reboot, staged

KEY = key_of("object")
LARGE = SMALL + BLOCK + 3
sizes = pytest.mark.parametrize("size", [0, 10, SMALL, LARGE])


def assert_segment(cache: Cache, size: int) -> None:
    segment = cache.find(KEY, size)
    assert segment is not None
    assert segment.complete
    assert not segment.needs_verify
    assert os.pread(segment.fd, size + 1, 0) == content("object", size)
    segment.close()


@sizes
def test_the_bytes_are_a_complete_segment_then(cache: Cache, size: int) -> None:
    stage = staged(cache, size)
    inode = stage.path.stat().st_ino
    cache.adopt(KEY, stage.path, size)
    assert not stage.path.exists()
    segment = cache.find(KEY, size)
    assert segment is not None
    assert os.fstat(segment.fd).st_ino == inode
    segment.close()
    assert_segment(cache, size)


@sizes
def test_a_file_may_be_older_than_1970(cache: Cache, size: int) -> None:
    stage = staged(cache, size)
    os.utime(stage.path, ns=(-5, -5_000_000_001))
    cache.adopt(KEY, stage.path, size)
    assert_segment(cache, size)
    assert sweep(cache.shared.layout).segments == 1
    assert record_of(cache.shared.layout, KEY.hex) is not None


@sizes
def test_adopted_segments_survive_a_reboot(cache: Cache, size: int) -> None:
    cache.adopt(KEY, staged(cache, size).path, size)
    reboot(cache)
    segment = cache.find(KEY, size)
    assert segment is not None
    assert segment.needs_verify
    assert segment.verify() == 0
    assert segment.complete
    segment.close()


def test_an_incomplete_segment_is_replaced(cache: Cache) -> None:
    segment = cache.create(KEY, LARGE)
    segment.write_block(0, content("object", LARGE)[:BLOCK])
    cache.adopt(KEY, staged(cache, LARGE).path, LARGE)
    assert not segment.complete
    assert os.pread(segment.fd, BLOCK, 0) == content("object", LARGE)[:BLOCK]
    assert_segment(cache, LARGE)
    segment.close()
    assert_segment(cache, LARGE)
    map_path(cache, "object")  # one map is left


def test_an_open_complete_segment_is_kept(cache: Cache) -> None:
    cache.store_small(KEY, content("object", 10))
    segment = cache.find(KEY, 10)
    assert segment is not None
    stage = staged(cache, 10)
    cache.adopt(KEY, stage.path, 10)
    assert not stage.path.exists()
    again = cache.find(KEY, 10)
    assert again is not None
    assert again.fd == segment.fd
    again.close()
    segment.close()


def test_a_file_of_another_length_stays_staged(cache: Cache) -> None:
    stage = staged(cache, 10)
    with pytest.raises(CacheError, match="10 bytes, not 11"):
        cache.adopt(KEY, stage.path, 11)
    assert stage.path.exists()


def test_a_missing_file_is_an_error(cache: Cache, root: Path) -> None:
    with pytest.raises(CacheError):
        cache.adopt(KEY, root / "staging" / "volume" / "nothing", 1)


def test_a_file_written_to_meanwhile_stays_staged(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged(cache, LARGE)
    real = os.preadv

    def preadv(fd: int, buffers: Any, offset: int) -> int:
        if offset == BLOCK:
            overwrite(stage.path, 0, b"newer")
            os.utime(stage.path)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(CacheError, match="written to"):
        cache.adopt(KEY, stage.path, LARGE)
    assert stage.path.exists()
    assert not cache.contains(KEY)
    assert list(Path(cache.shared.layout.data(KEY.hex)).parent.iterdir()) == []


class Died(BaseException):
    """The process ends here."""


def _die(*_arguments: Any, **_named: Any) -> None:
    raise Died


def _map_made(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Header, "write", _die)


def _nothing_done(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockMap, "create", _die)


def _before_rename(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "rename", _die)


def _after_rename(patch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        real(source, target)
        raise Died

    patch.setattr(os, "rename", rename)


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("death", [_nothing_done, _map_made, _before_rename, _after_rename])
def test_a_crash_leaves_the_stage_or_the_segment_and_it_can_be_done_again(
    cache: Cache, size: int, death: Callable[[pytest.MonkeyPatch], None]
) -> None:
    stage = staged(cache, size)
    with pytest.MonkeyPatch.context() as patch:
        death(patch)
        # What would clean up after an error does not run when the process dies.
        patch.setattr(os, "unlink", _die)
        try:
            cache.adopt(KEY, stage.path, size)
        except Died:
            pass
    assert stage.path.exists() != cache.contains(KEY)
    if stage.path.exists():
        assert stage.path.read_bytes() == content("object", size)
        cache.adopt(KEY, stage.path, size)
    assert_segment(cache, size)


def test_a_full_cache_leaves_it_staged(root: Path) -> None:
    cache = Cache(root, 4096)
    stage = staged(cache, LARGE)
    cache.shared.ledger.reserve(4096)
    with pytest.raises(CacheFull):
        cache.adopt(KEY, stage.path, LARGE)
    assert stage.path.exists()
    cache.close()


def test_the_ledger_follows(cache: Cache) -> None:
    governor = Governor(cache)
    assert governor.take_over()
    stage = staged(cache, LARGE)
    governor.look()
    used = cache.usage()
    assert used.staged >= LARGE
    assert used.used == 0
    cache.adopt(KEY, stage.path, LARGE)
    governor.look()
    used = cache.usage()
    assert used.staged == 0
    assert LARGE <= used.used <= LARGE + 16384
    governor.step_down()
