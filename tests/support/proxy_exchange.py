"""One client connection of the fault proxy: requests and answers, with their faults."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from tests.support.faults import (
    Blackhole,
    Cut,
    CutUpload,
    Delay,
    Fault,
    Header,
    LoseAnswer,
    Status,
    Truncate,
    WrongLength,
)
from tests.support.http1 import PIECE, Head, body, read_head, s3_kind

_STREAM_LIMIT = 1 << 20
_REASONS = {500: "Internal Server Error", 503: "Service Unavailable", 429: "Too Many Requests"}


class Record(Protocol):
    """What an exchange tells about its request."""

    status: int | None
    request_bytes: int
    answer_bytes: int


Note = Callable[[str, str, str], tuple[Record, list[Fault]]]


class _Broken(ConnectionError):
    """A fault ends the connection here."""


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN: the peer sees "connection reset"."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Exchange:
    """A connection of a client and the one to the origin that belongs to it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        origin: tuple[str, int],
    ) -> None:
        self._reader, self._writer, self._origin = reader, writer, origin
        self._up: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """End in good order: what was written still arrives."""
        self._writer.close()
        if self._up is not None:
            self._up[1].close()

    def abort(self) -> None:
        reset(self._writer)
        if self._up is not None:
            reset(self._up[1])

    async def one(self, note: Note) -> bool:
        """Serve one request; False when the connection is over."""
        request = await read_head(self._reader)
        if request is None:
            return False
        method, target = request.start.decode("latin-1").split(" ")[:2]
        copies = request.get(b"x-amz-copy-source") is not None
        record, faults = note(method, target, s3_kind(method, target, copies=copies))
        for fault in faults:
            match fault:
                case Delay(seconds):
                    await asyncio.sleep(seconds)
                case Blackhole():
                    await self._swallow()
                case Status():
                    return await self._refuse(request, fault, record)
        return await self._forward(request, faults, record)

    async def _swallow(self) -> None:
        while await self._reader.read(PIECE):
            pass
        raise _Broken

    async def _refuse(self, request: Head, fault: Status, record: Record) -> bool:
        expects = request.get(b"expect") is not None
        if not expects:  # otherwise the client holds its body back, and must not send it now
            async for piece in body(self._reader, request, until_eof=False):
                record.request_bytes += len(piece)
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{fault.code}</Code><Message>injected</Message></Error>"
        ).encode()
        lines = [
            f"HTTP/1.1 {fault.status} {_REASONS.get(fault.status, 'Injected')}",
            "Content-Type: application/xml",
            f"Content-Length: {len(xml)}",
        ]
        if fault.retry_after is not None:
            lines.append(f"Retry-After: {fault.retry_after}")
        if expects:
            lines.append("Connection: close")
        record.status = fault.status
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self._writer.write(head if request.start.startswith(b"HEAD ") else head + xml)
        await self._writer.drain()
        return not expects

    async def _forward(self, request: Head, faults: list[Fault], record: Record) -> bool:
        if self._up is not None and self._up[0].at_eof():
            self._up[1].close()  # the origin closed an idle connection: no fault of ours
            self._up = None
        if self._up is None:
            self._up = await asyncio.open_connection(*self._origin, limit=_STREAM_LIMIT)
        reader, writer = self._up
        writer.write(request.encode())
        upload = asyncio.create_task(self._upload(request, writer, faults, record))
        answer = asyncio.create_task(self._answer(request, reader, faults, record))
        try:
            done, _ = await asyncio.wait({upload, answer}, return_when=asyncio.FIRST_COMPLETED)
            if upload in done:
                upload.result()
                return await answer
            # Answered before all was sent. Who asked for 100 Continue may never send the rest.
            if not answer.result() or request.get(b"expect") is not None:
                return False
            await upload
            return True
        finally:
            for task in (upload, answer):
                task.cancel()
            await asyncio.gather(upload, answer, return_exceptions=True)

    async def _upload(
        self, request: Head, writer: asyncio.StreamWriter, faults: list[Fault], record: Record
    ) -> None:
        limit = next((fault.after for fault in faults if isinstance(fault, CutUpload)), None)
        if limit == 0:
            raise _Broken
        await writer.drain()
        async for piece in body(self._reader, request, until_eof=False):
            if limit is not None and record.request_bytes + len(piece) >= limit:
                writer.write(piece[: limit - record.request_bytes])
                await writer.drain()
                raise _Broken
            record.request_bytes += len(piece)
            writer.write(piece)
            await writer.drain()

    async def _answer(
        self, request: Head, reader: asyncio.StreamReader, faults: list[Fault], record: Record
    ) -> bool:
        lost = any(isinstance(fault, LoseAnswer) for fault in faults)
        while True:
            head = await read_head(reader)
            if head is None:
                raise _Broken
            if head.status >= 200:
                break
            self._writer.write(head.encode())  # 100 Continue
        bodiless = request.start.startswith(b"HEAD ") or head.status in (204, 304)
        pieces = body(reader, Head(head.start, ()) if bodiless else head, until_eof=not bodiless)
        if lost:
            async for _ in pieces:
                pass
            raise _Broken
        again = not (head.closes or request.closes)
        if not bodiless and head.length is None and not head.chunked:
            again = False
        shown, budget, pad = _falsified(head, faults)
        record.status = head.status
        self._writer.write(shown.encode())
        async for piece in pieces:
            if budget is not None:
                piece = piece[:budget]
                budget -= len(piece)
            self._writer.write(piece)
            record.answer_bytes += len(piece)
            await self._writer.drain()
            if budget == 0 and pad is None:
                await self._end(faults)
        if budget == 0 and pad is None:  # the body was empty
            await self._end(faults)
        if pad:
            self._writer.write(bytes(pad))
        await self._writer.drain()
        return again

    async def _end(self, faults: list[Fault]) -> None:
        """Stop in the middle of a body, by FIN or RST."""
        if any(isinstance(fault, Truncate) for fault in faults):
            self._writer.close()
            await self._writer.wait_closed()
        raise _Broken


def _falsified(head: Head, faults: list[Fault]) -> tuple[Head, int | None, int | None]:
    """The head to show, how many bytes of the body to pass on (None: all), and zeros to add.

    Zeros of None with a budget mean: the connection ends when the budget is used up.
    """
    budget: int | None = None
    pad: int | None = None
    for fault in faults:
        match fault:
            case Header(name, value):
                encoded = None if value is None else value.encode("latin-1")
                head = head.replaced(name.encode("latin-1"), encoded)
            case Cut(limit) | Truncate(limit):
                budget, pad = limit, None
            case WrongLength(delta) if head.length is not None:
                length = max(0, head.length + delta)
                budget, pad = min(length, head.length), max(0, delta)
                head = head.replaced(b"Content-Length", str(length).encode())
            case _:
                pass
    return head, budget, pad
