"""A successor takes the connection over: killed or stopped predecessors, open files, requests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.fuse.client import Client, clients
from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour

pytestmark = pytest.mark.integration

BEHAVIOUR = Behaviour(direct_io=True, persist=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    files = {"blocked": b"answered late", "free": b"free"}
    with serving(tmp_path, BEHAVIOUR, files=files) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with clients() as (client,):
        client.do(f"os.chdir({str(server.mountpoint)!r})")
        yield client


OPEN_AND_READ = "os.read(os.open('blocked', os.O_RDONLY), 100)"


def succeed(server: Server) -> None:
    server.kill()
    server.start(BEHAVIOUR)


def test_a_read_in_flight_is_answered_by_the_successor(server: Server, client: Client) -> None:
    client.begin(OPEN_AND_READ)
    server.wait_for(waiting=1)
    succeed(server)
    server.wait_for(waiting=1)
    (seen,) = server.ask("report")["seen"]
    assert seen[0] == "read"
    assert 0 < seen[1] < 1 << 62, "without the bit that marks it"
    server.ask("let_go")
    assert client.result() == b"answered late"
    assert client.do(OPEN_AND_READ) == b"answered late"


def test_reads_in_flight_survive_several_successors(server: Server) -> None:
    with clients(8) as readers:
        for reader in readers:
            reader.do(f"os.chdir({str(server.mountpoint)!r})")
            reader.begin(OPEN_AND_READ)
        server.wait_for(waiting=8)
        for _ in range(3):
            succeed(server)
            server.wait_for(waiting=8)
        server.ask("let_go")
        assert [reader.result() for reader in readers] == [b"answered late"] * 8


def test_a_predecessor_that_is_stopped_leaves_its_requests_to_the_successor(
    server: Server, client: Client
) -> None:
    client.begin(OPEN_AND_READ)
    server.wait_for(waiting=1)
    assert server.ask("stop", grace=0, hand_over=True) == 1
    server.wait_until_gone()
    server.start(BEHAVIOUR)
    server.wait_for(waiting=1)
    server.ask("let_go")
    assert client.result() == b"answered late"


def test_requests_that_came_while_nobody_served_are_answered(
    server: Server, client: Client
) -> None:
    server.kill()
    client.begin("os.read(os.open('free', os.O_RDONLY), 100)")
    server.start(BEHAVIOUR)
    assert client.result() == b"free"


def test_a_reader_that_is_killed_while_nobody_serves_ends_with_the_successor(
    server: Server, client: Client
) -> None:
    client.begin(OPEN_AND_READ)
    server.wait_for(waiting=1)
    server.kill()
    client.process.kill()
    server.start(BEHAVIOUR)
    assert client.process.wait(30) != 0


def test_open_files_go_on(server: Server, client: Client) -> None:
    client.do("globals().update(fd=os.open('free', os.O_RDWR))")
    assert client.do("os.pwrite(fd, b'first', 0)") == 5
    succeed(server)
    assert client.do("os.pread(fd, 100, 0)") == b"first"
    assert client.do("os.pwrite(fd, b'second', 5)") == 6
    assert client.do("os.pread(fd, 100, 0)") == b"firstsecond"
    client.do("os.close(fd)")
    client.do("os.chdir('/')")
    assert (server.mountpoint / "free").read_bytes() == b"firstsecond"
    assert server.unmount() == 0


def test_reads_and_writes_are_right_however_often_the_server_is_killed(
    server: Server, client: Client, tmp_path: Path
) -> None:
    over = tmp_path / "over"
    client.do("globals().update(fd=os.open('free', os.O_RDWR))")
    client.begin(
        "all(os.pwrite(fd, bytes([n % 251]) * 3000, n % 5000 * 3000) == 3000"
        " and os.pread(fd, 3000, n % 5000 * 3000) == bytes([n % 251]) * 3000"
        f" for n in itertools.takewhile(lambda _: not os.path.exists({str(over)!r}),"
        " itertools.count()))"
    )
    for count in (50, 200, 500, 1000):
        server.wait_for(written=count)
        succeed(server)
    server.wait_for(written=50)
    over.touch()
    assert client.result() is True
    client.do("os.close(fd)")


def test_passthrough_goes_on_while_nobody_serves(tmp_path: Path) -> None:
    behaviour = Behaviour(passthrough=True, persist=True)
    with (
        serving(tmp_path, behaviour, files={"file": b"0123456789"}) as server,
        clients() as (client,),
    ):
        path = str(server.mountpoint / "file")
        client.do(f"globals().update(fd=os.open({path!r}, os.O_RDWR))")
        # Before the first write the kernel asks whether the file has capabilities to take away.
        assert client.do("os.pwrite(fd, b'0', 0)") == 1
        server.kill()
        assert client.do("os.pwrite(fd, b'abc', 2)") == 3
        assert client.do("os.pread(fd, 100, 0)") == b"01abc56789"
        server.start(behaviour)
        assert client.do("os.fstat(fd).st_size") == 10
        client.do("os.close(fd)")


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


@pytest.mark.parametrize("served", [True, False], ids=["after", "before"])
def test_without_resending_who_waits_can_be_killed(tmp_path: Path, served: bool) -> None:
    """After or before there is a successor."""
    files = {"blocked": b"never", "free": b"free"}
    with (
        serving(tmp_path, BEHAVIOUR, ("resend",), files=files) as server,
        clients() as (client,),
    ):
        client.do(f"os.chdir({str(server.mountpoint)!r})")
        client.begin(OPEN_AND_READ)
        server.wait_for(waiting=1)
        server.kill()
        if served:
            server.start(BEHAVIOUR)
            assert (server.mountpoint / "free").read_bytes() == b"free"
        client.process.send_signal(signal.SIGKILL)
        if not served:
            server.start(BEHAVIOUR)
        assert client.process.wait(30) == -signal.SIGKILL
