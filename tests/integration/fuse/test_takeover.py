"""A successor takes the connection over: killed or stopped predecessors, open files, requests."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour

pytestmark = pytest.mark.integration

BEHAVIOUR = Behaviour(direct_io=True, persist=True)
READS = (
    "import os, sys\n"
    "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
    "print(os.read(fd, 100), flush=True)\n"
    "print(os.pread(fd, 4, 0), flush=True)\n"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    files = {"blocked": b"answered late", "free": b"free"}
    with serving(tmp_path, BEHAVIOUR, files=files) as server:
        yield server


def reader(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", READS, str(path)], stdout=subprocess.PIPE, text=True
    )


def test_a_read_in_flight_is_answered_by_the_successor(server: Server) -> None:
    client = reader(server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    server.kill()
    server.start(BEHAVIOUR)
    server.wait_for(waiting=1)
    (seen,) = server.ask("report")["seen"]
    assert seen[0] == "read"
    assert 0 < seen[1] < 1 << 62, "without the bit that marks it"
    server.ask("let_go")
    assert client.communicate(timeout=30)[0] == "b'answered late'\nb'answ'\n"


def test_a_read_in_flight_survives_several_successors(server: Server) -> None:
    client = reader(server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    for _ in range(3):
        server.kill()
        server.start(BEHAVIOUR)
        server.wait_for(waiting=1)
    server.ask("let_go")
    assert client.communicate(timeout=30)[0] == "b'answered late'\nb'answ'\n"


def test_a_predecessor_that_is_stopped_leaves_its_requests_to_the_successor(
    server: Server,
) -> None:
    client = reader(server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    assert server.ask("stop", grace=0, hand_over=True) == 1
    assert server.process is not None
    server.start(BEHAVIOUR)
    server.wait_for(waiting=1)
    server.ask("let_go")
    assert client.communicate(timeout=30)[0] == "b'answered late'\nb'answ'\n"


def test_requests_that_came_while_nobody_served_are_answered(server: Server) -> None:
    server.kill()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append((server.mountpoint / "free").read_bytes()))
    thread.start()
    server.start(BEHAVIOUR)
    thread.join(30)
    assert got == [b"free"]


def test_a_reader_that_was_interrupted_before_can_be_killed_after(server: Server) -> None:
    client = reader(server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    server.kill()
    client.kill()
    server.start(BEHAVIOUR)
    client.communicate(timeout=30)


def test_open_files_go_on(server: Server) -> None:
    fd = os.open(server.mountpoint / "free", os.O_RDWR)
    os.pwrite(fd, b"first", 0)
    server.kill()
    server.start(BEHAVIOUR)
    assert os.pread(fd, 100, 0) == b"first"
    os.pwrite(fd, b"second", 5)
    assert os.pread(fd, 100, 0) == b"firstsecond"
    os.close(fd)
    assert (server.mountpoint / "free").read_bytes() == b"firstsecond"
    assert server.unmount() == 0


def test_passthrough_goes_on_while_nobody_serves(tmp_path: Path) -> None:
    behaviour = Behaviour(passthrough=True, persist=True)
    with serving(tmp_path, behaviour, files={"file": b"0123456789"}) as server:
        fd = os.open(server.mountpoint / "file", os.O_RDWR)
        server.kill()
        assert os.pwrite(fd, b"abc", 2) == 3
        assert os.pread(fd, 100, 0) == b"01abc56789"
        server.start(behaviour)
        assert os.fstat(fd).st_size == 10
        os.close(fd)


def test_leaving_opens_out_is_remembered(tmp_path: Path) -> None:
    behaviour = Behaviour(ttl=3600, zero_upcall=True, read_only=True, persist=True)
    with serving(tmp_path, behaviour, files={"file": b"x", "other": b"y"}) as server:
        assert (server.mountpoint / "file").read_bytes() == b"x"
        server.kill()
        server.start(behaviour)
        assert (server.mountpoint / "file").read_bytes() == b"x"
        assert (server.mountpoint / "other").read_bytes() == b"y"
        assert "open" not in server.calls()


def test_without_resending_a_successor_serves_what_comes_later(tmp_path: Path) -> None:
    with serving(tmp_path, BEHAVIOUR, ("resend",), files={"free": b"free"}) as server:
        server.kill()
        server.start(BEHAVIOUR)
        assert (server.mountpoint / "free").read_bytes() == b"free"
