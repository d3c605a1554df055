"""A disk that is full although the ledger thought otherwise: CacheFull, and nothing torn."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache, Governor
from csi_slayer.errors import CacheFull
from tests.unit.cache.helpers import content, disk_bytes, key_of, reboot

pytestmark = pytest.mark.integration  # mounts what is full: as root

SIZE = 40 * BLOCK


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 16 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.fixture
def cache(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """A cache that believes in much free space: somebody else fills the disk meanwhile."""
    made = Cache(disk / "cache", 1 << 40)
    monkeypatch.setattr(made.shared.ledger, "free_space", lambda: 1 << 50)
    yield made
    made.close()


def stuff(disk: Path, leave: int) -> Path:
    """Fill the disk except for some bytes; remove the file to have room again."""
    path = disk / "stuffing"
    state = os.statvfs(disk)
    with path.open("wb") as file:
        file.write(bytes(state.f_bavail * state.f_frsize - leave))
    return path


def test_a_block_that_does_not_fit_stays_absent(cache: Cache, disk: Path) -> None:
    data = content("object", SIZE)
    segment = cache.create(key_of("object"), SIZE)
    stuffing = stuff(disk, 3 * BLOCK + BLOCK // 2)
    for block in range(3):
        segment.write_block(block * BLOCK, data[block * BLOCK : (block + 1) * BLOCK])
    with pytest.raises(CacheFull):
        segment.write_block(3 * BLOCK, data[3 * BLOCK : 4 * BLOCK])
    assert segment.missing(0, SIZE) == [(3 * BLOCK, SIZE - 3 * BLOCK)]
    assert cache.usage().used == disk_bytes(cache) >= 3 * BLOCK + 4096
    stuffing.unlink()
    for offset in range(0, SIZE, BLOCK):
        segment.write_block(offset, data[offset : offset + BLOCK])
    assert segment.complete
    assert cache.usage().used == disk_bytes(cache)
    segment.close()
    reboot(cache)
    again = cache.find(key_of("object"), SIZE)
    assert again is not None
    assert again.verify() == 0
    again.close()


def test_a_small_segment_that_does_not_fit_leaves_nothing(cache: Cache, disk: Path) -> None:
    stuff(disk, 100_000)
    key = key_of("object")
    shard = Path(cache.shared.layout.data(key.hex)).parent
    assert not cache.store_small(key, content("object", 1 << 20))
    assert cache.put_small(key, content("object", 1 << 20)) is None
    assert cache.events.bypassed.value == 2
    assert not cache.contains(key)
    assert list(shard.iterdir()) == []
    assert cache.usage().used == 0
    assert cache.store_small(key_of("fits"), b"hello")


def test_a_segment_that_cannot_be_made_leaves_nothing(cache: Cache, disk: Path) -> None:
    stuff(disk, 0)
    key = key_of("object")
    with pytest.raises(CacheFull):
        cache.create(key, 1 << 34)
    assert list(Path(cache.shared.layout.data(key.hex)).parent.iterdir()) == []
    assert cache.usage().used == 0
    assert cache.shared.opened == {}


def test_a_staged_file_that_cannot_get_its_map_stays_staged(cache: Cache, disk: Path) -> None:
    stage = cache.staging("v").create()
    os.ftruncate(stage.fd, 1 << 29)
    os.close(stage.fd)
    stuff(disk, 0)
    with pytest.raises(CacheFull):
        cache.adopt(key_of("object"), stage.path, 1 << 29)
    assert stage.path.exists()
    assert not cache.contains(key_of("object"))


def test_a_cache_directory_on_a_full_disk_is_refused(disk: Path) -> None:
    stuff(disk, 0)
    with pytest.raises(CacheFull):
        Cache(disk / "cache", 1 << 20)


def test_files_are_removed_before_the_disk_has_no_inode_left(tmp_path: Path) -> None:
    """As on ext4, which small files fill up without taking its space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=2000", "tmpfs", disk], check=True
    )
    try:
        with closing(Cache(disk / "cache", 1 << 30, min_free=0)) as cache:
            governor = Governor(cache)
            assert governor.take_over()
            staging = cache.staging("volume")
            for number in range(3000):
                name = f"small {number}"
                cache.store_small(key_of(name), content(name, 100))
                if number % 10 == 0:
                    os.close(staging.create().fd)
                    governor.look()
            assert os.statvfs(disk).f_favail >= 50
            assert cache.usage().segments > 1000  # no more than that
            governor.step_down()
    finally:
        subprocess.run(["umount", disk], check=True)
