"""The worker's control socket: status, warming, waiting for uploads.

A Unix socket in the run directory, mode 0600. A client must be root or the worker's own user
(SO_PEERCRED); one request line of JSON, at most 64 KiB, is answered by lines of JSON, the last one
with ``"done": true``, or ``"error": text``, or ``"busy": text`` where there are too many clients.
One that is slow, silent or malformed is cut off and harms nobody. A socket that somebody removed is
made again, with its directory: who cleans that up does not know that it is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog

from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

LINE_LIMIT = 64 << 10
CLIENTS = 16
"""Clients served at once; more are told so and let go."""

REQUEST_TIMEOUT = 5.0
"""Seconds a client may take to say what it wants."""

SEND_TIMEOUT = 30.0
"""Seconds a client may take to accept an answer."""

Handler = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]

_CREDENTIALS = struct.Struct("iII")


class ControlServer:
    """``handlers``: operation name to an async generator of answers."""

    def __init__(self, path: Path, handlers: dict[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        end = socket.socket(socket.AF_UNIX)
        try:
            end.bind(str(self._path))
            # No umask: it would be that of all threads. Nobody can connect before it listens.
            self._path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._accept, sock=end, limit=LINE_LIMIT)
        except BaseException:
            end.close()
            raise

    async def look_after(self) -> None:
        """Serve again if the socket is gone. Raises OSError."""
        if self._server is not None and self._path.exists():
            return
        if self._server is not None:
            self._server.close()  # those who are connected stay
            self._server = None
        await self.start()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if not self._may_talk(writer):
            writer.close()
            return
        if len(self._clients) >= CLIENTS:
            writer.write(_line({"busy": f"it serves {CLIENTS} clients already"}))
            writer.close()
            return
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError) as error:
            log.warning("control client cut off", reason=type(error).__name__)
        except asyncio.CancelledError:
            pass  # the worker ends
        finally:
            self._clients.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    @staticmethod
    def _may_talk(writer: asyncio.StreamWriter) -> bool:
        peer = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(raw)
        if uid in (0, os.geteuid()):
            return True
        log.warning("control client refused", uid=uid)
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            line = await reader.readuntil(b"\n")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        name = request.get("op") if isinstance(request, dict) else None
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None:
            await self._send(writer, {"error": "unknown operation"})
            return
        try:
            async for answer in handler(request):
                await self._send(writer, answer)
            await self._send(writer, {"done": True})
        except SlayerError as error:
            await self._send(writer, {"error": str(error)})

    @staticmethod
    async def _send(writer: asyncio.StreamWriter, answer: dict[str, Any]) -> None:
        writer.write(_line(answer))
        async with asyncio.timeout(SEND_TIMEOUT):
            await writer.drain()


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"
