"""On ext4 with bigalloc a file of one byte takes a whole cluster, in memory with huge pages one of
those: what is counted is that."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache
from csi_slayer.cache.filesystem import allocation_unit
from tests.unit.cache.helpers import content, disk_bytes, fill, key_of, make_complete

pytestmark = pytest.mark.integration  # mounts: as root

CAPACITY = 16 << 20


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system made with these options, of 64 MiB."""
    image, path = tmp_path / "image", tmp_path / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    options = ["-I", "256", *request.param.split()]
    subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


CLUSTERS = {
    "-b 1024": 1024,
    "-b 4096": 4096,
    "-b 4096 -O ^extent,^64bit": 4096,
    "-b 4096 -O bigalloc -C 16384": 16384,
    "-b 4096 -O bigalloc,inline_data -C 65536": 65536,
    "-b 4096 -O bigalloc -C 1048576": 1 << 20,
}


@pytest.mark.parametrize(("disk", "unit"), CLUSTERS.items(), indirect=["disk"])
def test_the_unit_is_found(disk: Path, unit: int) -> None:
    assert allocation_unit(str(disk), 1) == unit
    assert os.listdir(disk) == ["lost+found"]


@pytest.mark.parametrize("disk", CLUSTERS, indirect=True)
def test_the_capacity_holds(disk: Path) -> None:
    """Of small and of large segments, in random places and in order."""
    with closing(Cache(disk / "cache", CAPACITY)) as cache:
        make_complete(cache, "in order", 9 * BLOCK)
        segment = cache.create(key_of("in part"), 33 * BLOCK)
        for number in (31, 3, 17):
            segment.write_block(number * BLOCK, content("in part", BLOCK))
        segment.close()
        kept = sum(
            cache.store_small(key_of(f"{number}"), content("small", 600)) for number in range(5000)
        )
        assert disk_bytes(cache) <= cache.usage().used <= CAPACITY
        assert kept == 5000 or disk_bytes(cache) > CAPACITY * 3 // 4


def test_the_capacity_holds_in_memory_with_huge_pages(tmp_path: Path) -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").exists():
        pytest.skip("this kernel has no huge pages")
    options = f"size={4 * CAPACITY},huge=always"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], check=True)
    try:
        with closing(Cache(tmp_path / "cache", CAPACITY)) as cache:
            make_complete(cache, "in order", 9 * BLOCK)
            for number in range(20):
                cache.store_small(key_of(f"{number}"), b"small")
            assert CAPACITY // 2 < disk_bytes(cache) <= cache.usage().used <= CAPACITY
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("disk", ["-b 4096 -O bigalloc -C 65536"], indirect=True)
def test_every_cluster_is_counted(disk: Path) -> None:
    with closing(Cache(disk / "cache", CAPACITY)) as cache:
        for number in range(20):
            assert cache.store_small(key_of(f"{number}"), b"small")
        segment = cache.create(key_of("object"), 5 * BLOCK)
        fill(segment, content("object", 5 * BLOCK))
        segment.close()
        assert cache.usage().used == disk_bytes(cache) == (20 + 1 + 10) * 65536
