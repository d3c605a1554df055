"""What the kernel keeps, and what makes it drop it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour
from tests.support.mounts import wait_for

pytestmark = pytest.mark.integration


ROUNDS = 10
"""In one of them nothing is asked for: in others the kernel may have been short of memory."""


def read_all(path: Path) -> bytes:
    """By system calls only: Python's own ``open`` asks for more than it needs."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


@pytest.fixture
def files() -> dict[str, bytes]:
    return {f"file{n}": f"contents {n}".encode() for n in range(20)}


def test_a_read_only_volume_is_served_without_requests_once_it_is_warm(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    behaviour = Behaviour(ttl=3600, zero_upcall=True, read_only=True)
    with serving(tmp_path, behaviour, files=files) as server:
        for _ in range(2):
            for name in os.listdir(server.mountpoint):
                assert read_all(server.mountpoint / name) == files[name]

        def requests() -> int:
            before = sum(server.calls().values())
            for name in sorted(files):
                assert read_all(server.mountpoint / name) == files[name]
                assert os.stat(server.mountpoint / name).st_size == len(files[name])
            return sum(server.calls().values()) - before

        assert 0 in (requests() for _ in range(ROUNDS))
        calls = server.calls().keys()
        assert not {"open", "opendir", "release", "releasedir", "flush"} & calls
        with pytest.raises(OSError, match="Read-only"):
            (server.mountpoint / "new").mkdir()


@pytest.mark.parametrize("off", ["no_open", "no_opendir"])
def test_leaving_opens_out_can_be_switched_off(tmp_path: Path, off: str) -> None:
    behaviour = Behaviour(ttl=3600, zero_upcall=True, read_only=True)
    with serving(tmp_path, behaviour, (off,), files={"file": b"x"}) as server:
        assert os.listdir(server.mountpoint) == ["file"]
        assert read_all(server.mountpoint / "file") == b"x"
        calls = server.calls()
        assert ("open" in calls) == (off == "no_open")
        assert ("flush" in calls) == (off == "no_open")
        assert ("opendir" in calls) == (off == "no_opendir")


def eventually(server: Server, path: Path, wanted: bytes) -> None:
    """The invalidation is written by a thread; a client sees the new contents after that."""
    for _ in range(1000):
        if read_all(path) == wanted:
            return
        server.ask("report")
    raise AssertionError(f"still {read_all(path)!r}")


def test_invalidating_an_inode_drops_pages_and_attributes(tmp_path: Path) -> None:
    behaviour = Behaviour(ttl=3600, zero_upcall=True, read_only=True)
    with serving(tmp_path, behaviour, files={"file": b"old contents"}) as server:
        path = server.mountpoint / "file"
        assert read_all(path) == b"old contents"
        ino = server.put("file", b"new")
        assert read_all(path) == b"old contents"
        server.ask("invalidate_inode", ino=ino)
        eventually(server, path, b"new")
        assert path.stat().st_size == 3


def lookups(server: Server, path: Path) -> int:
    """Made by a ``stat``."""
    before = server.calls()["lookup"]
    path.stat()
    return server.calls()["lookup"] - before


@pytest.mark.parametrize("off", [(), ("expire_only",)])
def test_invalidating_a_name_has_it_looked_up_again(tmp_path: Path, off: tuple[str, ...]) -> None:
    with serving(tmp_path, Behaviour(ttl=3600), off, files={"file": b"x"}) as server:
        path = server.mountpoint / "file"
        assert path.exists()
        assert 0 in (lookups(server, path) for _ in range(ROUNDS))
        server.ask("invalidate_entry", parent=1, name="file")
        assert 1 in (lookups(server, path) for _ in range(1000)), "never looked up again"


def test_a_file_that_shrinks_outside_loses_its_pages_when_that_is_seen(
    tmp_path: Path, engine: str
) -> None:
    with serving(
        tmp_path, Behaviour(ttl=0), files={"file": b"0123456789"}, engine=engine
    ) as server:
        fd = os.open(server.mountpoint / "file", os.O_RDONLY)
        assert os.pread(fd, 100, 0) == b"0123456789"
        server.put("file", b"abc")
        assert os.fstat(fd).st_size == 3
        assert os.pread(fd, 100, 0) == b"abc"
        os.close(fd)


def test_lookups_and_forgets_balance(tmp_path: Path, engine: str) -> None:
    files = {f"{'n' * 100}{n}": b"" for n in range(200)}
    with serving(tmp_path, Behaviour(ttl=0), files=files, engine=engine) as server:
        for _ in range(3):
            with os.scandir(server.mountpoint) as entries:
                assert sum(entry.stat().st_size for entry in entries) == 0
            os.listdir(server.mountpoint)

        def are_forgotten() -> bool:
            # Each time: a file system in use at that moment is passed over.
            Path("/proc/sys/vm/drop_caches").write_text("2")
            return not server.ask("report")["lookups"]

        wait_for(are_forgotten, 60, what="names forgotten")
