"""What is particular to the engine on libfuse."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from csi_slayer.fuse import mount as mounts
from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour
from tests.support.mounts import wait_for

pytest.importorskip("pyfuse3")
pytestmark = pytest.mark.integration

FILES = {"blocked": b"late", "free": b"at once"}
MOST = 99
"""Requests that pyfuse3 has handlers for at once."""


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    behaviour = Behaviour(direct_io=True, ttl=3600)
    with serving(tmp_path, behaviour, files=FILES, loop=request.param, engine="pyfuse3") as server:
        yield server


def read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_nobody_but_the_server_keeps_the_connection(server: Server) -> None:
    assert server.fd is None
    fd = os.open(server.mountpoint / "free", os.O_RDONLY)
    server.kill()
    for call in (
        lambda: os.read(fd, 1),
        lambda: os.listdir(server.mountpoint),
        lambda: os.close(fd),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert mounts.is_mounted(str(server.mountpoint)), "it is there for the next worker to find"


def test_more_requests_than_handlers_wait_for_their_turn(server: Server) -> None:
    with ThreadPoolExecutor(MOST + 21) as pool:
        fds = [os.open(server.mountpoint / "blocked", os.O_RDONLY) for _ in range(MOST + 21)]
        reads = [pool.submit(os.read, fd, 100) for fd in fds]
        server.wait_for(waiting=MOST)
        assert server.ask("report")["in_flight"] == MOST
        server.ask("let_go")
        assert [one.result(30) for one in reads] == [b"late"] * len(reads)
        for fd in fds:
            os.close(fd)
    assert read(server.mountpoint / "free") == b"at once"


def test_stopping_cancels_what_does_not_end_and_its_caller_gets_eintr(server: Server) -> None:
    code = (
        "import ctypes, errno, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(100)\n"
        "print(libc.read(fd, buffer, 100), errno.errorcode[ctypes.get_errno()], flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(server.mountpoint / "blocked")]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        server.wait_for(waiting=1)
        assert server.ask("stop", grace=0.05, hand_over=False) == 1
        assert reader.communicate(timeout=30)[0] == "-1 EINTR\n"
    finally:
        reader.kill()
        reader.communicate(timeout=30)


def test_invalidating_an_inode_drops_its_attributes(server: Server) -> None:
    path = server.mountpoint / "free"
    assert path.stat().st_size == 7
    ino = server.put("free", b"new")
    assert path.stat().st_size == 7
    server.ask("invalidate_inode", ino=ino)
    assert eventually(server, lambda: path.stat().st_size == 3)


def test_invalidating_a_name_has_it_looked_up_again(server: Server) -> None:
    path = server.mountpoint / "free"
    path.stat()
    before = server.calls()["lookup"]
    server.ask("invalidate_entry", parent=1, name="free")
    server.ask("invalidate_entry", parent=1, name="of no file")

    def again() -> bool:
        path.stat()
        return server.calls()["lookup"] > before

    assert eventually(server, again)


def eventually(server: Server, condition: object) -> bool:
    """An invalidation is written by a thread; asking the server gives it time."""
    assert callable(condition)
    return any(condition() or server.ask("report") is None for _ in range(1000))


def test_a_read_only_file_system_is_mounted_so(tmp_path: Path) -> None:
    behaviour = Behaviour(read_only=True, zero_upcall=True)
    with serving(tmp_path, behaviour, files=FILES, engine="pyfuse3") as server:
        with pytest.raises(OSError) as caught:
            (server.mountpoint / "new").mkdir()
        assert caught.value.errno == errno.EROFS
        assert read(server.mountpoint / "free") == b"at once"


def test_a_request_is_gone_before_it_is_read(server: Server, tmp_path: Path) -> None:
    """Its program is killed between the server's waking and its reading."""
    still = tmp_path / "still"
    os.mkfifo(still)
    assert server.process is not None
    stat = Path(f"/proc/{server.process.pid}/stat")
    with mounts._fusectl() as connections:
        waiting = connections / str(server.connection) / "waiting"
        for name in "abcde":
            wait_for(lambda: int(waiting.read_text()) == 0, what="the end of what is under way")
            os.kill(server.process.pid, signal.SIGSTOP)
            wait_for(lambda: ") T " in stat.read_text(), what="its standstill")
            server.tell("stand_still", until=str(still))
            client = subprocess.Popen(["stat", str(server.mountpoint / name)])
            wait_for(lambda: int(waiting.read_text()) == 1, what="a request")
            os.kill(server.process.pid, signal.SIGCONT)
            with still.open("wb"):
                client.kill()
                client.wait(20)
            server.heard()
            assert read(server.mountpoint / "free") == b"at once"
    assert server.unmount() == 0
