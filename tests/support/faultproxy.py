"""A proxy in front of a real S3 server that fails on command.

It runs its own event loop in a thread; the test controls it from wherever it runs. Requests are
forwarded unchanged, Host included, so that signatures made for the proxy's address stay valid.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tests.support.faults import Fault, Rule, Rules
from tests.support.proxy_exchange import Exchange, reset

T = TypeVar("T")

_CALL_TIMEOUT = 30.0
_STREAM_LIMIT = 1 << 20


@dataclass(slots=True)
class Seen:
    """A request that reached the proxy; ``status`` is what the client was answered, if anything."""

    method: str
    target: str
    kind: str
    status: int | None = None
    request_bytes: int = 0
    answer_bytes: int = 0


class FaultProxy:
    """``with FaultProxy(server.endpoint) as proxy:`` then use ``proxy.endpoint`` as the store's.

    ``tls`` serves https with that context; the origin is plain http either way.
    """

    def __init__(self, origin: str, *, tls: ssl.SSLContext | None = None, seed: int = 1) -> None:
        parts = urlsplit(origin)
        assert parts.hostname is not None
        assert parts.port is not None
        self._origin = (parts.hostname, parts.port)
        self._tls = tls
        self._rules = Rules(seed)
        self._port = 0
        self._seen: list[Seen] = []
        self._changed = threading.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="fault-proxy", daemon=True
        )
        self._thread.start()
        self._call(self._listen())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        """URL for the client; the port stays the same when the server goes away and comes back."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def inject(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str | None = None,
        kind: str | None = None,
        times: int | None = None,
        fraction: float = 1.0,
        skip: int = 0,
    ) -> Rule:
        """Let ``fault`` happen to requests that match everything given.

        ``path``: regular expression searched in the request target (percent-encoded, with query);
        ``kind``: name of the S3 operation (``GetObject``); ``times``: only so often, None: until
        removed; ``fraction``: share of the matching requests, by the proxy's seed; ``skip``: leave
        the first ones alone. Several rules may hit one request: all that can be combined happen.
        """
        rule = Rule(fault, method, re.compile(path) if path else None, kind, times, fraction, skip)
        self._rules.add(rule)
        return rule

    def remove(self, rule: Rule) -> None:
        """That fault happens no more (requests already in it stay in it)."""
        self._rules.remove(rule)

    def heal(self) -> None:
        """Remove all faults."""
        self._rules.clear()

    def go_away(self) -> None:
        """Refuse connections and reset those that exist, as if the server's machine had died."""
        self._call(self._stop())

    def come_back(self) -> None:
        """Listen at the same port again; no error if it does already."""
        self._call(self._listen())

    def drop_connections(self) -> None:
        """Reset all connections, requests in progress too; new ones are accepted."""
        self._call(self._drop())

    def seen(self, kind: str | None = None, *, method: str | None = None) -> list[Seen]:
        """The requests so far, oldest first."""
        with self._changed:
            return [s for s in self._seen if kind in (None, s.kind) and method in (None, s.method)]

    def count(self, kind: str | None = None, *, method: str | None = None) -> int:
        return len(self.seen(kind, method=method))

    def reset_counts(self) -> None:
        with self._changed:
            self._seen.clear()

    def wait_for(self, count: int, kind: str | None = None, *, timeout: float = 30.0) -> None:
        """Wait until so many requests of a kind have arrived. Raises TimeoutError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while sum(kind in (None, s.kind) for s in self._seen) < count:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"fewer than {count} requests of kind {kind}")

    def close(self) -> None:
        """End everything; no error if closed already."""
        if self._loop.is_closed():
            return
        self._call(self._stop())
        self._call(self._end_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CALL_TIMEOUT)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_CALL_TIMEOUT)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        self._server = await asyncio.start_server(
            self._accept,
            "127.0.0.1",
            self._port,
            limit=_STREAM_LIMIT,
            backlog=1024,
            ssl=self._tls,
            reuse_address=True,
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            # A connection that asyncio has accepted in this turn would be neither served nor
            # closed: whoever made it would wait for an answer.
            for listening in server.sockets:
                self._loop.remove_reader(listening)
            await asyncio.sleep(0)
            server.close()
        await self._drop()

    async def _drop(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _end_all(self) -> None:
        """Also what a connection has begun that was being accepted when the server stopped."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:
            reset(writer)  # it was being accepted when the server stopped
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(reader, writer, self._origin)
        try:
            while await exchange.one(self._note):
                pass
            exchange.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            exchange.abort()  # one side broke off: tell the other
        except asyncio.CancelledError:
            exchange.abort()

    def _note(self, method: str, target: str, kind: str) -> tuple[Seen, list[Fault]]:
        seen = Seen(method, target, kind)
        faults = self._rules.match(method, target, kind)
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()
        return seen, faults
