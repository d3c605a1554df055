"""Small requests: a bounded pool of kept-alive connections on the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer, AnswerReader
from csi_slayer.store.s3.connection import Connection
from csi_slayer.store.s3.resolver import Resolver
from csi_slayer.store.s3.target import Target, connect_failure
from csi_slayer.store.s3.tunnel import establish_tunnel

# Idle connections are closed after this long (seconds): servers do not keep them much longer.
_LONGEST_IDLE = 20.0
# How often silent and idle connections are looked for (seconds), at most.
_SWEEP = 1.0


class ConnectionPool:
    """At most ``size`` connections to one server; requests beyond that wait their turn.

    Silence is watched by one sweep over all connections instead of a timer per request, which
    would cost as much as signing it.
    """

    def __init__(self, target: Target, resolver: Resolver, size: int) -> None:
        self._target = target
        self._resolver = resolver
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._connecting = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(self, head: bytes, body: bytes | memoryview, reader: AnswerReader) -> Answer:
        """Send a request and wait for its answer.

        Raises Transient if the answer does not come or is cut, StoreIntegrityError if it is
        malformed or larger than the reader allows, StoreUnavailable if TLS fails.
        """
        connection = self._pop_idle() or await self._acquire()
        try:
            return await connection.exchange(head, body, reader)
        except BaseException:
            connection.abort()
            raise
        finally:
            self._release(connection)

    async def close(self) -> None:
        """Close all connections; requests under way and those that wait fail."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._wake(None)
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _pop_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._open.discard(connection)
        return None

    async def _acquire(self) -> Connection:
        while True:
            if self._closed:
                raise Transient("the store is closed", limit=1)
            connection = self._pop_idle()
            if connection is not None:
                return connection
            if len(self._open) + self._connecting < self._size:
                return await self._connect()
            connection = await self._wait_turn()
            if connection is not None:
                if connection.usable:
                    return connection
                self._open.discard(connection)  # it ended on its way here

    async def _wait_turn(self) -> Connection | None:
        """Wait until a connection is handed over, or (None) one may be opened."""
        future: asyncio.Future[Connection | None] = self._loop.create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(self._target.silence_timeout):
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled():
                self._pass_on(future.result())  # it came in the same turn
            elif future in self._waiting:
                self._waiting.remove(future)
            if isinstance(error, TimeoutError):
                raise Transient(f"all {self._size} connections are busy") from None
            raise

    def _pass_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._wake(None)
        else:
            self._release(connection)

    async def _connect(self) -> Connection:
        self._connecting += 1
        try:
            connection = await self._connect_somewhere()
        except BaseException:
            # In the next turn: the slot is free only after this one.
            self._loop.call_soon(self._wake, None)
            raise
        finally:
            self._connecting -= 1
        connection.last_activity = self._loop.time()
        self._open.add(connection)
        self._watch()
        return connection

    async def _connect_somewhere(self) -> Connection:
        """The first address that answers, each with the connect timeout of its own."""
        target = self._target
        failure: Exception = Transient(f"{target}: the name has no address")
        for place in await self._resolver.addresses():
            try:
                async with asyncio.timeout(target.connect_timeout):
                    return await self._connect_to(place)
            except OSError as error:
                failure = connect_failure(target, error)
        self._resolver.forget()
        raise failure

    async def _connect_to(self, place: tuple[Any, ...]) -> Connection:
        target, address = self._target, place[4]
        where: dict[str, Any] = {"host": address[0], "port": address[1]}
        if target.proxy is not None:
            where = {"sock": await establish_tunnel(target, target.proxy, place)}
        _, connection = await self._loop.create_connection(
            lambda: Connection(self._loop),
            ssl=target.tls,
            server_hostname=target.host if target.tls is not None else None,
            **where,
        )
        return connection

    def _wake(self, connection: Connection | None) -> bool:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return True
        return False

    def _release(self, connection: Connection) -> None:
        if not connection.usable or self._closed:
            self._open.discard(connection)
            connection.abort()
            self._wake(None)
        elif not (self._waiting and self._wake(connection)):
            self._idle.append(connection)

    def _watch(self) -> None:
        if self._timer is None and not self._closed:
            period = min(_SWEEP, self._target.silence_timeout / 4)
            self._timer = self._loop.call_later(period, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        silence = self._target.silence_timeout
        for connection in list(self._open):
            quiet = now - connection.last_activity
            if connection.busy:
                if quiet > silence and not connection.is_sending(now):
                    connection.expire(silence)
            elif quiet > _LONGEST_IDLE or not connection.usable:
                self._drop_idle(connection)
        if self._open:
            self._watch()

    def _drop_idle(self, connection: Connection) -> None:
        try:
            self._idle.remove(connection)
        except ValueError:
            return  # handed to a request that has not begun
        self._open.discard(connection)
        connection.abort()
