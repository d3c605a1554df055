"""Stores into files that are mapped (mmap with MAP_SHARED): none is lost, whenever it comes."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.support.mappings import mapped
from tests.support.mounts import TestMount, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SIZE = 3 * mmap.PAGESIZE


@pytest.fixture(params=["close", "fsync", "writeback"])
def durability(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mount(make_mount: MakeMount, capabilities: list[str], durability: str) -> TestMount:
    """With a file of zeros, which the store has."""
    made = make_mount(options=[*capabilities, f"volume.durability={durability}"]).mount()
    (made.root / "file").write_bytes(bytes(SIZE))
    made.wait_idle()
    return made


def starts(path: Path, data: bytes) -> bool:
    return path.read_bytes()[: len(data)] == data


def staged(mount: TestMount) -> list[Path]:
    return [path for path in (mount.cache / "staging").rglob("*") if path.is_file()]


def test_fsync_after_each_store(mount: TestMount, objects: Path, durability: str) -> None:
    """The page stays dirty and mapped from store to store."""
    with mapped(mount.root / "file", SIZE) as (memory, fd):
        for text in (b"first", b"again", b"third"):
            memory.store(text)
            os.fsync(fd)
            # Policy writeback leaves a file alone that is open for writing.
            assert durability == "writeback" or starts(objects / "file", text)
        memory.store(b"after", SIZE - 5)
        os.close(fd)
    wait_for(lambda: (objects / "file").read_bytes()[-5:] == b"after")
    assert starts(mount.root / "file", b"third")


def test_the_time_of_a_store_is_seen(mount: TestMount, capabilities: list[str]) -> None:
    """Before the kernel's attributes are ten seconds old (the default metadata_ttl); where the
    worker has the pages, after the mapping's end."""
    path = mount.root / "file"
    os.utime(path, (1e9, 1e9))

    def seen() -> bool:
        return path.stat().st_mtime > 1e9

    with mapped(path, SIZE) as (memory, fd):
        assert not seen()
        memory.store(b"first")
        os.close(fd)
        if not capabilities:
            wait_for(seen, 5)
    wait_for(seen, 5)


def test_a_store_is_seen_by_who_is_served_by_the_worker(
    mount: TestMount, capabilities: list[str]
) -> None:
    """One who writes synchronously is not passed through, unlike who had the file mapped."""
    path = mount.root / "file"
    with mapped(path, SIZE) as (memory, fd):
        os.close(fd)
        if not capabilities:  # else the mapping keeps it open
            wait_for(lambda: mount.ask_status()["open_files"] == 0, what="the close")
        other = os.open(path, os.O_RDWR | os.O_DSYNC)
        assert os.pread(other, 5, 0) == bytes(5)
        memory.store(b"first")
        os.fsync(other)
        wait_for(lambda: os.pread(other, 5, 0) == b"first", 5)
        os.close(other)


def test_somebody_else_has_the_file_uploaded(
    mount: TestMount, objects: Path, durability: str
) -> None:
    with mapped(mount.root / "file", SIZE) as (memory, fd):
        memory.store(b"before")
        with (mount.root / "file").open("r+b") as other:
            other.seek(mmap.PAGESIZE)
            other.write(b"other")
            other.flush()
            os.fsync(other.fileno())
        assert durability == "writeback" or starts(objects / "file", b"before")
        memory.store(b"behind")
        os.close(fd)
    wait_for(lambda: starts(objects / "file", b"behind"))
    assert (objects / "file").read_bytes()[mmap.PAGESIZE :][:5] == b"other"


def test_unmounted_right_after_the_end_of_a_mapping(
    mount: TestMount, objects: Path, capabilities: list[str]
) -> None:
    """Nobody would know whose the staged copy is once the volume's state is removed."""
    with mapped(mount.root / "file", SIZE) as (memory, fd):
        memory.store(b"before")
        os.close(fd)
        if not capabilities:  # else the store comes with the end of the mapping
            wait_for(lambda: starts(objects / "file", b"before"))
            mount.wait_idle()
    mount.umount()
    assert starts(objects / "file", b"before")
    assert staged(mount) == []


@pytest.mark.parametrize("touched", [True, False])
def test_the_mapping_outlives_the_descriptor(
    mount: TestMount, objects: Path, capabilities: list[str], touched: bool
) -> None:
    """What is stored long after the close arrives, and the file is cached when it is over. (Where
    the worker has the pages, the kernel hands them over in its own time, or when it is over.)"""
    with mapped(mount.root / "file", SIZE) as (memory, fd):
        if touched:
            memory.store(b"early")
        os.close(fd)
        mount.wait_idle()
        for text in (b"late1", b"late2"):
            memory.store(text)
            assert starts(mount.root / "file", text)
            if not capabilities:
                wait_for(lambda text=text: starts(objects / "file", text))
        memory.store(b"last!")
    wait_for(lambda: starts(objects / "file", b"last!"))
    mount.wait_idle()
    assert starts(mount.root / "file", b"last!")
    wait_for(lambda: not staged(mount))
    assert (mount.root / "file").read_bytes() == (objects / "file").read_bytes()


def test_another_worker_takes_over_a_mapping(
    mount: TestMount, objects: Path, capabilities: list[str]
) -> None:
    with mapped(mount.root / "file", SIZE) as (memory, fd):
        memory.store(b"early")
        os.close(fd)
        mount.wait_idle()
        mount.wait_for_successor(mount.kill_worker())
        memory.store(b"later")
        if not capabilities:
            wait_for(lambda: starts(objects / "file", b"later"))
    wait_for(lambda: starts(objects / "file", b"later"))
    assert starts(mount.root / "file", b"later")


def test_a_mapping_that_another_worker_took_over_hides_what_others_do(
    make_mount: MakeMount, capabilities: list[str], objects: Path
) -> None:
    """Also while somebody reads the file: the next store is a conflict, nothing is overwritten."""
    mount = make_mount(options=[*capabilities, "volume.close_to_open=true"]).mount()
    path = mount.root / "file"
    path.write_bytes(bytes(SIZE))
    with mapped(path, SIZE) as (memory, fd):
        memory.store(b"early")
        os.close(fd)
        mount.wait_idle()
        mount.wait_for_successor(mount.kill_worker())
        with path.open("rb", buffering=0) as reader:
            (objects / "file").write_bytes(b"other" * 1000)
            assert reader.read(5) == b"early"
            assert starts(path, b"early")
            memory.store(b"later")
            assert os.pread(reader.fileno(), 5, 0) == b"later"
            assert starts(path, b"later")


def test_a_cache_in_memory_has_no_mappings_of_its_own(
    make_mount: MakeMount, objects: Path, tmp_path: Path
) -> None:
    """A file system that never writes back does not tell of stores: the worker does."""
    cache = tmp_path / "memory"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", cache], check=True)
    try:
        mount = make_mount(options=["cache.min_free=0"], cache=cache / "cache").mount()
        (mount.root / "file").write_bytes(bytes(SIZE))
        with mapped(mount.root / "file", SIZE) as (memory, fd):
            for text in (b"first", b"again"):
                memory.store(text)
                os.fsync(fd)
                assert starts(objects / "file", text)
            os.close(fd)
        mount.umount()
    finally:
        subprocess.run(["umount", cache], check=True)
