"""The kernel's end of a connection, for tests: a socket that keeps message boundaries."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from csi_slayer.fuse.channel import Channel
from csi_slayer.fuse.dispatch import Dispatcher
from csi_slayer.fuse.init import Capabilities, SessionState, negotiate
from csi_slayer.fuse.stats import Observer, Stats

EVERYTHING = (1 << 64) - 1


def negotiated(off: tuple[str, ...] = (), zero_upcall: bool = False) -> SessionState:
    body = struct.pack("<IIIIII40x", 7, 45, 131072, EVERYTHING >> 32, EVERYTHING >> 32, 0)
    return negotiate(
        memoryview(body), Capabilities.without(off), connection=1, zero_upcall=zero_upcall
    )[0]


class FakeKernel:
    """Sends requests to a dispatcher and receives its replies."""

    def __init__(
        self,
        ops: Any,
        *,
        off: tuple[str, ...] = (),
        zero_upcall: bool = False,
        observer: Observer | None = None,
    ) -> None:
        self.end, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.end, self._device):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.setblocking(False)
        loop = asyncio.get_running_loop()
        state = negotiated(off, zero_upcall)
        self.stats = Stats(observer)
        self.channel = Channel(self._device.fileno(), 1 << 17, loop)
        self.stale: list[int] = []
        """Inodes whose attributes it was told to ask for anew."""
        self.dispatcher = Dispatcher(ops, self.channel, state, self.stats, loop, self.stale.append)
        self.closed = False
        self._unique = 0

    def start(self) -> None:
        self.channel.start(self.dispatcher.dispatch, self._on_closed)

    def _on_closed(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.channel.close()
        self.end.close()
        self._device.close()

    def send(
        self,
        opcode: int,
        body: bytes = b"",
        *,
        ino: int = 1,
        uid: int = 1,
        unique: int | None = None,
    ) -> int:
        """Queue a request; returns its unique."""
        if unique is None:
            self._unique += 2
            unique = self._unique
        head = struct.pack(
            "<IIQQIIIHH", 40 + len(body), opcode, unique, ino, uid, 2, os.getpid(), 0, 0
        )
        self.end.send(head + body)
        return unique

    async def reply(self) -> tuple[int, int, bytes]:
        """The next reply: errno (0 or positive), unique, body."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            data = await loop.sock_recv(self.end, 1 << 21)
        length, error, unique = struct.unpack("<IiQ", data[:16])
        assert length == len(data)
        return -error, unique, data[16:]

    async def ask(self, opcode: int, body: bytes = b"", *, ino: int = 1) -> tuple[int, bytes]:
        """Send a request and take its reply: errno and body."""
        sent = self.send(opcode, body, ino=ino)
        error, unique, data = await self.reply()
        assert unique == sent
        return error, data

    def silent(self) -> bool:
        """Whether no reply is there."""
        try:
            self.end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is true."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
