"""A cache directory that is full, too small, or damaged."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.test_faults import content
from tests.support.mounts import TestMount, wait_for

pytestmark = pytest.mark.integration

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, for a cache whose configuration believes in more."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def full(make_mount: MakeMount, disk: Path, *options: str) -> TestMount:
    """A mount whose cache's disk has no room left at all."""
    mount = make_mount(
        cache=disk / "cache", options=["cache.capacity=1GiB", "cache.min_free=0", *options]
    ).mount()
    fill(disk)
    return mount


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017


def test_reads_go_past_a_full_disk(
    make_mount: MakeMount, objects: Path, small_disk: Path, capabilities: list[str]
) -> None:
    small, large = content(100_000), content(12 * MIB, 2)
    (objects / "small").write_bytes(small)
    (objects / "large").write_bytes(large)
    (objects / "later").write_bytes(large)
    mount = full(make_mount, small_disk, *capabilities)
    for _ in range(2):
        assert (mount.root / "small").read_bytes() == small
        assert (mount.root / "large").read_bytes() == large
    (small_disk / "ballast").unlink()
    for _ in range(2):
        assert (mount.root / "small").read_bytes() == small
        assert (mount.root / "large").read_bytes() == large
    assert (mount.root / "later").read_bytes() == large  # the kernel may have kept the others
    wait_for(lambda: mount.ask_status()["cache"]["bytes"] >= len(large), what="cached")
    mount.umount()


def test_writes_to_a_full_disk_are_refused(
    make_mount: MakeMount, objects: Path, small_disk: Path, capabilities: list[str]
) -> None:
    """ENOSPC, and what was there stays whole; with room again all goes on."""
    old = content(3 * MIB)
    (objects / "old").write_bytes(old)
    mount = full(make_mount, small_disk, *capabilities)
    with pytest.raises(OSError) as caught:
        (mount.root / "new").write_bytes(content(MIB))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught, (mount.root / "old").open("r+b") as file:
        file.write(b"changed")
    assert caught.value.errno == errno.ENOSPC
    assert (mount.root / "old").read_bytes() == old
    assert (objects / "old").read_bytes() == old
    (small_disk / "ballast").unlink()
    new = content(MIB, 3)
    (mount.root / "new").write_bytes(new)
    with (mount.root / "old").open("r+b") as file:
        file.write(b"changed")
    mount.wait_idle()
    assert (objects / "new").read_bytes() == new
    assert (objects / "old").read_bytes() == b"changed" + old[7:]
    mount.umount()


def test_a_disk_that_fills_during_a_write(
    make_mount: MakeMount, objects: Path, small_disk: Path, capabilities: list[str]
) -> None:
    """What write(2) took is there; the rest was refused; the object is what the file is."""
    mount = make_mount(
        cache=small_disk / "cache",
        options=["cache.capacity=1GiB", "cache.min_free=0", *capabilities],
    ).mount()
    block, taken = content(MIB), 0
    file = os.open(mount.root / "file", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError) as caught:  # noqa: PT012
        while True:
            taken += os.write(file, block)
    assert caught.value.errno == errno.ENOSPC
    assert taken > 30 * MIB
    size = os.fstat(file).st_size
    assert size >= taken
    os.close(file)
    mount.wait_idle()
    body = (objects / "file").read_bytes()
    assert len(body) == size
    assert body[:taken] == (block * (taken // MIB + 1))[:taken]
    (mount.root / "file").unlink()
    (mount.root / "next").write_bytes(block)
    mount.umount()


def test_the_capacity_is_never_exceeded(make_mount: MakeMount, objects: Path) -> None:
    """Reading eight times what fits: the bytes are right and the directory stays small."""
    bodies = {f"{number}": content(4 * MIB, number) for number in range(32)}
    for name, body in bodies.items():
        (objects / name).write_bytes(body)
    mount = make_mount(options=["cache.capacity=16MiB", "cache.min_free=0"]).mount()
    most = 0
    for name, body in bodies.items():
        assert (mount.root / name).read_bytes() == body
        most = max(most, used(mount.cache / "segments"))
    assert most <= 16 * MIB
    mount.umount()


def used(directory: Path) -> int:
    """Bytes on the disk, as ``du`` counts them; directories apart."""
    total = 0
    for folder, _folders, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:
                continue  # evicted meanwhile
    return total


def damage(cache: Path, pattern: str) -> int:
    """Overwrite the middle of all files of a kind; returns how many."""
    count = 0
    for path in (cache / "segments").glob(f"*/{pattern}"):
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for at in range(min(size // 2, 10_000), size, max(1, size // 5)):
                file.seek(at)
                file.write(b"\xa5" * min(64, size - at))
        count += 1
    return count


NAMES = "[0-9a-f]" * 32


def holds(mount: TestMount, content: bytes) -> bool:
    """Whether the worker has a file open in its cache that has the size of ``content``."""
    for link in Path(f"/proc/{mount.worker_pid()}/fd").iterdir():
        with suppress(FileNotFoundError):
            if "/segments/" in os.readlink(link) and link.stat().st_size == len(content):
                return True
    return False


@pytest.mark.parametrize("what", ["data", "map", "header"])
@pytest.mark.parametrize("when", ["open_next", "mount_next"])
def test_damage_is_noticed(
    make_mount: MakeMount, objects: Path, capabilities: list[str], what: str, when: str
) -> None:
    """Bytes of the cache are overwritten: the right ones are fetched again, and it is counted."""
    small, large = content(200_000), content(9 * MIB, 2)
    (objects / "small").write_bytes(small)
    (objects / "large").write_bytes(large)
    # A file that is complete has no map that matters, and reading ahead may complete it.
    ahead = "volume.prefetch=false" if what == "map" else "volume.prefetch=true"
    mount = make_mount(options=[*capabilities, ahead]).mount()
    assert (mount.root / "small").read_bytes() == small
    with (mount.root / "large").open("rb") as file:
        assert file.read(MIB) == large[:MIB]
    if when == "mount_next":
        mount.umount()
    else:
        wait_for(lambda: not holds(mount, large), what="the end of reading ahead")
    if what == "header":
        damaged = 0
        for path in (mount.cache / "segments").glob(f"*/{NAMES}"):
            for name in os.listxattr(path):
                if name.endswith("slayerfs"):
                    os.setxattr(path, name, b"\xa5" * len(os.getxattr(path, name)))
                    damaged += 1
    else:
        damaged = damage(mount.cache, NAMES if what == "data" else f"{NAMES}-*.map")
    assert damaged
    if when == "mount_next":
        mount.mount()
    assert (mount.root / "small").read_bytes() == small
    assert (mount.root / "large").read_bytes() == large
    if what == "data":
        wait_for(lambda: mount.ask_status()["counters"]["cache_corrupt_blocks"] > 0, what="counted")
    mount.umount()
