"""Files that the kernel reads and writes by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour

pytestmark = pytest.mark.integration

DATA = os.urandom(300_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, Behaviour(passthrough=True, ttl=10), files={"file": DATA}) as server:
        assert "passthrough" in (server.state or {})["capabilities"]
        yield server


def test_reads_and_writes_are_no_requests(server: Server) -> None:
    path = server.mountpoint / "file"
    fd = os.open(path, os.O_RDWR)
    assert os.pread(fd, len(DATA), 0) == DATA
    assert os.pwrite(fd, b"new", 1000) == 3
    assert os.pread(fd, 5, 999) == DATA[999:1000] + b"new" + DATA[1003:1004]
    calls = server.calls()
    assert "read" not in calls
    assert "write" not in calls
    os.close(fd)
    (backing,) = (p for p in server.store.iterdir() if p.name != "meta.json")
    assert backing.read_bytes() == DATA[:1000] + b"new" + DATA[1003:]


def test_the_size_follows_the_backing_file(server: Server) -> None:
    path = server.mountpoint / "file"
    with path.open("ab", buffering=0) as file:
        file.write(b"more")
        assert os.fstat(file.fileno()).st_size == len(DATA) + 4
    assert path.stat().st_size == len(DATA) + 4


def test_two_opens_share_the_backing_file(server: Server) -> None:
    path = server.mountpoint / "file"
    one = os.open(path, os.O_RDWR)
    two = os.open(path, os.O_RDONLY)
    os.pwrite(one, b"shared", 0)
    assert os.pread(two, 6, 0) == b"shared"
    assert server.ask("report")["backing"] == 1
    os.close(one)
    os.close(two)
    server.wait_for(released=2)
    assert server.ask("report")["backing"] == 0


def test_new_files_are_backed_too(server: Server) -> None:
    path = server.mountpoint / "new"
    path.write_bytes(DATA)
    assert path.read_bytes() == DATA
    assert "write" not in server.calls()


def test_switched_off_everything_goes_through_the_file_system(tmp_path: Path) -> None:
    with serving(
        tmp_path, Behaviour(passthrough=True), ("passthrough",), files={"file": DATA}
    ) as server:
        path = server.mountpoint / "file"
        assert path.read_bytes() == DATA
        path.write_bytes(b"new")
        calls = server.calls()
        assert calls["read"]
        assert calls["write"]
