"""The metrics endpoint over TCP and unix sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from csi_slayer.errors import ConfigError
from csi_slayer.observability.metrics import Metrics
from csi_slayer.observability.serve import MetricsServer, serve_metrics

Check = Callable[[MetricsServer], Awaitable[None]]


def _serving(listen: str, check: Check) -> None:
    async def run() -> None:
        metrics = Metrics(volume="vol")
        metrics.opens.add(5)
        server = await serve_metrics(metrics.registry, listen)
        try:
            async with asyncio.timeout(20):
                await check(server)
        finally:
            await server.close()

    asyncio.run(run())


async def _connect(server: MetricsServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if server.address.startswith("unix:"):
        return await asyncio.open_unix_connection(server.address.removeprefix("unix:"))
    host, _, port = server.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _ask(server: MetricsServer, request: bytes) -> bytes:
    reader, writer = await _connect(server)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_answers_samples(family: str, tmp_path: Path) -> None:
    async def check(server: MetricsServer) -> None:
        answer = await _ask(server, b"GET /metrics?x HTTP/1.1\r\nHost: h\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert b'slayerfs_opens_total{volume="vol"} 5.0\n' in body

    _serving("127.0.0.1:0" if family == "tcp" else f"unix:{tmp_path}/m.sock", check)


@pytest.mark.parametrize(
    ("request_line", "status", "body"),
    [
        (b"GET /healthz HTTP/1.1", b"200", b"ok\n"),
        (b"HEAD /healthz HTTP/1.1", b"200", b""),
        (b"GET / HTTP/1.1", b"404", b"try /metrics\n"),
        (b"POST /metrics HTTP/1.1", b"405", b"only GET\n"),
        (b"nonsense", b"405", b"only GET\n"),
    ],
)
def test_other_requests(request_line: bytes, status: bytes, body: bytes) -> None:
    async def check(server: MetricsServer) -> None:
        answer = await _ask(server, request_line + b"\r\n\r\n")
        assert answer.split(b" ", 2)[1] == status
        assert answer.partition(b"\r\n\r\n")[2] == body

    _serving("127.0.0.1:0", check)


def test_a_head_without_end_is_cut_off() -> None:
    async def check(server: MetricsServer) -> None:
        try:
            answer = await _ask(server, b"GET /metrics HTTP/1.1\r\n" + b"x" * 20_000)
        except ConnectionError:
            answer = b""
        assert answer == b""

    _serving("127.0.0.1:0", check)


def test_too_many_connections_are_refused_and_later_served_again() -> None:
    async def check(server: MetricsServer) -> None:
        idle = [await _connect(server) for _ in range(8)]
        reader, writer = await _connect(server)
        try:
            assert await reader.read() == b""
        except ConnectionError:
            pass
        writer.close()
        for waiting_reader, waiting_writer in idle:
            waiting_writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await waiting_reader.read()).endswith(b"ok\n")
            waiting_writer.close()
        assert (await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")

    _serving("127.0.0.1:0", check)


def test_a_unix_socket_is_private_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"

    async def check(_: MetricsServer) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600

    _serving(f"unix:{path}", check)
    assert not path.exists()


def test_takes_over_a_socket_that_a_dead_process_left(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async def check(server: MetricsServer) -> None:
        assert (await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")

    _serving(f"unix:{path}", check)


def test_leaves_alone_what_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"

    async def check(server: MetricsServer) -> None:
        with pytest.raises(ConfigError, match=r"metrics\.listen: cannot listen on "):
            await serve_metrics(Metrics().registry, server.address)

    _serving(f"unix:{path}", check)
    _serving("127.0.0.1:0", check)
    path.write_text("a file")
    with pytest.raises(ConfigError):
        asyncio.run(serve_metrics(Metrics().registry, f"unix:{path}"))
    assert path.read_text() == "a file"


def test_closing_ends_open_connections() -> None:
    async def run() -> None:
        server = await serve_metrics(Metrics().registry, "127.0.0.1:0")
        reader, writer = await _connect(server)
        await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")
        await server.close()
        assert await reader.read() == b""
        writer.close()

    asyncio.run(asyncio.wait_for(run(), 20))
