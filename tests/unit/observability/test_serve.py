"""The metrics endpoint over TCP and unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

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


def test_who_says_nothing_makes_way() -> None:
    """Eight connections of any pod, renewed each ten seconds, had the kubelet end the node service:
    its probes were refused."""

    async def check(server: MetricsServer) -> None:
        idle = [await _connect(server) for _ in range(8)]
        assert (await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
        with contextlib.suppress(ConnectionError):
            assert await idle[0][0].read() == b""
        for waiting_reader, waiting_writer in idle[1:]:
            waiting_writer.write(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert (await waiting_reader.read()).endswith(b"ok\n")
        for _reader, writer in idle:
            writer.close()

    _serving("127.0.0.1:0", check)


def test_who_waits_for_us_stays_and_more_are_refused_meanwhile() -> None:
    async def run() -> None:
        go_on = asyncio.Event()
        asked = 0

        async def ready() -> str | None:
            nonlocal asked
            asked += 1
            await go_on.wait()
            return None

        server = await serve_metrics(Metrics().registry, "127.0.0.1:0", ready)
        async with asyncio.timeout(20):
            request = b"GET /readyz HTTP/1.1\r\n\r\n"
            waiting = [asyncio.create_task(_ask(server, request)) for _ in range(8)]
            while asked < 8:  # noqa: ASYNC110 - by connections
                await asyncio.sleep(0.005)
            with contextlib.suppress(ConnectionError):
                assert await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n") == b""
            go_on.set()
            assert all(answer.endswith(b"ok\n") for answer in await asyncio.gather(*waiting))
            assert (await _ask(server, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"ok\n")
        await server.close()

    asyncio.run(run())


class _NeedsAThread:
    """A collector as the node service's, which has a thread of the loop do a part of it."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.collected = 0

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        assert self.loop is not None
        self.collected += 1
        work = asyncio.to_thread(list[Metric])
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


def test_many_scrapes_at_once_need_no_more_threads_than_one() -> None:
    """Eight waited for each other for ten seconds, and who published a volume with them."""

    async def run() -> None:
        collector = _NeedsAThread()
        registry = CollectorRegistry()
        registry.register(collector)
        collector.loop = asyncio.get_running_loop()
        collector.loop.set_default_executor(ThreadPoolExecutor(2))
        server = await serve_metrics(registry, "127.0.0.1:0")
        async with asyncio.timeout(5):
            request = b"GET /metrics HTTP/1.1\r\n\r\n"
            answers = await asyncio.gather(*[_ask(server, request) for _ in range(8)])
        assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
        before = collector.collected
        assert (await _ask(server, request)).startswith(b"HTTP/1.1 200")
        assert collector.collected == before + 1
        await server.close()

    asyncio.run(run())


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


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(ConfigError, match="path too long"):
            await serve_metrics(Metrics().registry, f"unix:{tmp_path}/{'m' * 120}")

    asyncio.run(body())


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
