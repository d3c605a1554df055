"""The metrics endpoint: a small HTTP/1.1 responder on the process's own event loop.

``GET /metrics`` answers the samples, ``GET /healthz`` that the loop runs, ``GET /readyz`` what the
process says of itself; nothing else is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from csi_slayer.errors import ConfigError

_MOST_CONNECTIONS: Final = 8
_LARGEST_HEAD: Final = 8192
_TIMEOUT: Final = 10.0

T = TypeVar("T")

Readiness = Callable[[], Awaitable[str | None]]
"""What keeps a process from doing its work, or None."""


class MetricsServer:
    """Serves a registry until :meth:`close`. Made by :func:`serve_metrics`."""

    def __init__(self, registry: CollectorRegistry, ready: Readiness | None = None) -> None:
        self._registry = registry
        self._ready = ready
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.StreamWriter, None] = {}  # for their clients, the longest first
        self._scrape: asyncio.Task[bytes] | None = None
        self._server: asyncio.Server | None = None
        self._socket_path: str | None = None

    @property
    def address(self) -> str:
        """Where it listens, in the form that ``metrics.listen`` takes."""
        if self._socket_path is not None:
            return f"unix:{self._socket_path}"
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def start(self, listen: str) -> None:
        if listen.startswith("unix:"):
            path = listen.removeprefix("unix:")
            self._server = await asyncio.start_unix_server(
                self._accept, sock=_private_socket(path), limit=_LARGEST_HEAD
            )
            self._socket_path = path
        else:
            host, _, port = listen.rpartition(":")
            self._server = await asyncio.start_server(
                self._accept, host.strip("[]"), int(port), limit=_LARGEST_HEAD
            )

    async def close(self) -> None:
        """Stop listening and end the connections that are open."""
        if self._server is None:
            return
        self._server.close()
        under_way: list[asyncio.Task[Any]] = [*self._connections]
        if self._scrape is not None:
            under_way.append(self._scrape)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._server.wait_closed()
        if self._socket_path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket_path)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MOST_CONNECTIONS:
            # Anybody in the cluster may connect and say nothing, and the kubelet ends a process
            # that does not answer its probes.
            slowest = next(iter(self._waiting), None)
            if slowest is None:
                writer.transport.abort()
                return
            del self._waiting[slowest]
            slowest.transport.abort()
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                head = await self._wait(writer, reader.readuntil(b"\r\n\r\n"))
                writer.write(await self._response(head))
                await self._wait(writer, writer.drain())
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _wait(self, writer: asyncio.StreamWriter, client: Awaitable[T]) -> T:
        """What the client does; meanwhile it may have to make way for another one."""
        self._waiting[writer] = None
        try:
            return await client
        finally:
            self._waiting.pop(writer, None)

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _message("405 Method Not Allowed", b"only GET\n")
        if path == b"/healthz":
            status, body, kind = "200 OK", b"ok\n", "text/plain"
        elif path == b"/readyz":
            problem = await self._ready() if self._ready is not None else None
            status = "200 OK" if problem is None else "503 Service Unavailable"
            body, kind = f"{problem or 'ok'}\n".encode(), "text/plain"
        elif path == b"/metrics":
            status, body, kind = "200 OK", await self._samples(), CONTENT_TYPE_LATEST
        else:
            status, body, kind = "404 Not Found", b"try /metrics\n", "text/plain"
        return _message(status, body, kind, send_body=method == b"GET")

    async def _samples(self) -> bytes:
        """Those who ask meanwhile share the answer: each one more would hold a thread that a
        collector may need for its own. Raises what a collector does."""
        if self._scrape is None or self._scrape.done():
            # It takes milliseconds: in a thread, so that no kernel request waits for it.
            self._scrape = asyncio.create_task(asyncio.to_thread(generate_latest, self._registry))
            # Retrieved here for the case that nobody waits any more.
            self._scrape.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._scrape)


def _message(
    status: str, body: bytes, kind: str = "text/plain", *, send_body: bool = True
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head + body if send_body else head


def _private_socket(path: str) -> socket.socket:
    """A socket that only this user can connect to. Raises OSError where another one listens.

    Not by asyncio: given a path, it silently takes a living server's place.
    """
    remove_stale_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before it listens
    except OSError:
        listener.close()
        raise
    return listener


def remove_stale_socket(path: str) -> None:
    """Remove a socket that a dead process left; anything else at ``path`` stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:
            return


async def serve_metrics(
    registry: CollectorRegistry, listen: str, ready: Readiness | None = None
) -> MetricsServer:
    """Start serving at ``host:port`` or ``unix:/path``; the caller closes the answer.

    Raises ConfigError where nothing can listen there.
    """
    server = MetricsServer(registry, ready)
    try:
        await server.start(listen)
    except OSError as error:
        why = error.strerror or error  # of a path that is too long there is no number
        raise ConfigError(f"metrics.listen: cannot listen on {listen}: {why}") from error
    return server
