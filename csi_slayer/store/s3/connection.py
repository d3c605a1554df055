"""One kept-alive HTTP/1.1 connection on the event loop, one request at a time."""

from __future__ import annotations

import asyncio
from typing import cast

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.answer import Answer, AnswerReader, BadAnswer
from csi_slayer.store.s3.target import reset_on_close

# Bodies up to this are joined to the head: one system call and one packet.
_JOINED_BODY = 16 << 10


class Connection(asyncio.Protocol):
    """``last_activity`` is a loop time; ``usable`` says whether it can carry another request."""

    __slots__ = (
        "_exchange",
        "_loop",
        "_reader",
        "_transport",
        "_unsent",
        "last_activity",
        "served",
        "usable",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._exchange: asyncio.Future[Answer] | None = None
        self._reader: AnswerReader | None = None
        self._unsent = 0
        self.last_activity = 0.0
        self.served = 0
        self.usable = False

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return self._exchange is not None

    def exchange(
        self, head: bytes, body: bytes | memoryview, reader: AnswerReader
    ) -> asyncio.Future[Answer]:
        """Send a request; the future becomes its answer, Transient or StoreIntegrityError."""
        assert self._transport is not None and self._exchange is None
        future = self._loop.create_future()
        self._exchange = future
        self._reader = reader
        self.last_activity = self._loop.time()
        if len(body) <= _JOINED_BODY:
            self._transport.write(head + body if body else head)
        else:
            self._transport.writelines([head, body])
        return future

    def abort(self) -> None:
        """Drop the connection and everything that was to be sent."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def is_sending(self, now: float) -> bool:
        """Whether the server has taken some of the body since this was last asked."""
        left = 0 if self._transport is None else self._transport.get_write_buffer_size()
        moves = left != self._unsent
        self._unsent = left
        if moves:
            self.last_activity = now
        return moves

    def expire(self, silence: float) -> None:
        """Fail the request: the server has been silent for too long."""
        self._fail(Transient(f"no answer within {silence:g} s"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)
        reset_on_close(transport.get_extra_info("socket"))
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """asyncio: bytes have come."""
        self.last_activity = self._loop.time()
        reader = self._reader
        if reader is None:
            self.abort()  # nobody asked for anything
            return
        try:
            reader.feed(data)
        except BadAnswer as error:
            self._fail(StoreIntegrityError(str(error)))
            return
        if reader.done:
            self._finish(reader)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: closed, by whichever side."""
        self.usable = False
        self._transport = None
        reader = self._reader
        if self._exchange is None or reader is None:
            return
        if reader.ends_with_connection and reader.status >= 300:
            self._finish(reader)
            return
        if reader.headers_done:
            failure = Transient("the connection was cut within the answer")
        else:
            reason = f" ({exc})" if exc is not None else ""
            failure = Transient(
                f"the connection was cut before the answer{reason}", immediate=self.served > 0
            )
        self._fail(failure)

    def _finish(self, reader: AnswerReader) -> None:
        future = self._exchange
        self._exchange = self._reader = None
        self.served += 1
        if not reader.keep_alive:
            self.abort()
        if future is not None and not future.done():
            future.set_result(reader.answer())

    def _fail(self, error: Exception) -> None:
        future = self._exchange
        self._exchange = self._reader = None
        self.abort()
        if future is not None and not future.done():
            future.set_exception(error)
