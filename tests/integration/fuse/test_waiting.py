"""Handlers that wait: many at once, interrupted, drained, and with writes among them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour

pytestmark = pytest.mark.integration

FILES = {"blocked": b"late", "free": b"at once"}


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, Behaviour(direct_io=True), files=FILES, loop=request.param) as server:
        yield server


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def client() -> Iterator[Start]:
    """Starts programs of their own, which may have to be killed while they wait."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, args)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


READS = "import os, sys; print(os.read(os.open(sys.argv[1], os.O_RDONLY), 100))"

# os.read goes on after EINTR by itself; the C library's does not.
READS_ONCE = (
    "import ctypes, errno, os, signal, sys\n"
    "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
    "libc, buffer = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(100)\n"
    "got = libc.read(fd, buffer, 100)\n"
    "print(got, errno.errorcode.get(ctypes.get_errno()), flush=True)\n"
)


def test_64_reads_wait_while_others_are_served(server: Server) -> None:
    def read(_: int) -> bytes:
        fd = os.open(server.mountpoint / "blocked", os.O_RDONLY)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)

    with ThreadPoolExecutor(64) as pool:
        reads = [pool.submit(read, n) for n in range(64)]
        server.wait_for(waiting=64)
        assert (server.mountpoint / "free").read_bytes() == b"at once"
        assert server.ask("report")["in_flight"] == 64
        server.ask("let_go")
        assert [read.result(30) for read in reads] == [b"late"] * 64
    assert server.ask("report")["in_flight"] == 0


def test_a_signal_interrupts_a_read(server: Server, client: Start) -> None:
    reader = client(READS_ONCE, server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    reader.send_signal(signal.SIGUSR1)
    assert reader.communicate(timeout=30)[0] == "-1 EINTR\n"
    assert server.ask("report")["cancelled"] == 1
    assert server.ask("report")["stats"]["read"]["errors"] == 1


def test_a_killed_reader_ends(server: Server, client: Start) -> None:
    reader = client(READS, server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    reader.kill()
    reader.communicate(timeout=30)
    assert reader.returncode == -signal.SIGKILL


WRITES = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
    "fd = os.open(sys.argv[1], os.O_WRONLY)\n"
    "print(os.write(fd, b'x' * 1000), flush=True)\n"
)


def test_a_signal_that_is_handled_does_not_interrupt_a_write(server: Server, client: Start) -> None:
    writer = client(WRITES, server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    writer.send_signal(signal.SIGUSR1)
    # The interrupt was read before what is asked now: requests of this client come after it.
    assert (server.mountpoint / "free").read_bytes() == b"at once"
    assert server.ask("report")["cancelled"] == 0
    server.ask("let_go")
    assert writer.communicate(timeout=30)[0] == "1000\n"


def test_a_killed_writer_ends(server: Server, client: Start) -> None:
    writer = client(WRITES, server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    writer.send_signal(signal.SIGUSR1)
    writer.kill()
    writer.communicate(timeout=30)
    assert server.ask("report")["cancelled"] == 1


def test_a_signal_that_is_handled_does_not_spoil_a_page_of_a_mapping(
    tmp_path: Path, client: Start
) -> None:
    code = (
        "import mmap, os, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: None)\n"
        "with open(sys.argv[1], 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:\n"
        "    print(m[:4], flush=True)\n"
    )
    with serving(tmp_path, Behaviour(), ("async_read",), files=FILES) as server:
        reader = client(code, server.mountpoint / "blocked")
        server.wait_for(waiting=1)
        reader.send_signal(signal.SIGUSR1)
        assert (server.mountpoint / "free").read_bytes() == b"at once"
        server.ask("let_go")
        assert reader.communicate(timeout=30)[0] == "b'late'\n"
        assert reader.returncode == 0


def test_an_invalidation_that_waits_for_a_page_being_read_holds_nobody_up(
    tmp_path: Path, engine: str, client: Start
) -> None:
    with serving(tmp_path, Behaviour(), files=FILES, engine=engine) as server:
        ino = os.stat(server.mountpoint / "blocked").st_ino
        reader = client(READS, server.mountpoint / "blocked")
        server.wait_for(waiting=1)
        server.ask("invalidate_inode", ino=ino)
        assert (server.mountpoint / "free").read_bytes() == b"at once"
        server.ask("let_go")
        assert reader.communicate(timeout=30)[0] == "b'late'\n"


@pytest.mark.parametrize("size", [4096, 100_000, 1 << 20])
def test_writes_that_wait_keep_their_data(tmp_path: Path, engine: str, size: int) -> None:
    with serving(tmp_path, Behaviour(slow=True, direct_io=True), engine=engine) as server:

        def write(number: int) -> None:
            path = server.mountpoint / f"file{number}"
            fd = os.open(path, os.O_CREAT | os.O_RDWR)
            for block in range(4):
                os.pwrite(fd, bytes([number, block]) * (size // 2), block * size)
            os.close(fd)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(write, range(16)))
        for number in range(16):
            data = (server.mountpoint / f"file{number}").read_bytes()
            assert data == b"".join(bytes([number, block]) * (size // 2) for block in range(4))


def test_more_large_writes_than_there_are_buffers(tmp_path: Path, engine: str) -> None:
    with serving(
        tmp_path, Behaviour(direct_io=True), files={"blocked": b""}, engine=engine
    ) as server:
        fd = os.open(server.mountpoint / "blocked", os.O_WRONLY)
        with ThreadPoolExecutor(48) as pool:
            data = b"y" * 100_000
            writes = [pool.submit(os.pwrite, fd, data, n * 100_000) for n in range(48)]
            # Writes to one file come one after the other unless each has its own handle.
            server.wait_for(waiting=1)
            server.ask("let_go")
            assert [write.result(30) for write in writes] == [100_000] * 48
        os.close(fd)


def test_stopping_cancels_what_does_not_end_and_its_caller_gets_eintr(
    server: Server, client: Start
) -> None:
    reader = client(READS_ONCE, server.mountpoint / "blocked")
    server.wait_for(waiting=1)
    assert server.ask("stop", grace=0.05, hand_over=False) == 1
    assert reader.stdout is not None
    assert reader.stdout.readline() == "-1 EINTR\n"
    server.abort()  # it closes its file, and nobody answers
    reader.communicate(timeout=30)
