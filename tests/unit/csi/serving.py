"""A service of any class on a socket, with what it logs and counts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from structlog.testing import capture_logs

from csi_slayer.csi.locks import KeyedLocks
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.rpc import Calls
from csi_slayer.csi.server import Server
from tests.support.csi import CsiClient, connected

TIMEOUT = 30.0


class Counted:
    """Observer that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def called(self, method: str, code: str, seconds: float) -> None:
        assert seconds >= 0
        self.calls.append((method, code))


class Serving:
    """What a test of one service sees."""

    def __init__(self, client: CsiClient, observer: Counted, logs: list[Any]) -> None:
        self.client = client
        self.observer = observer
        self.logs = logs

    async def refused(self, method: str, /, *args: Any, **fields: Any) -> tuple[str, str]:
        """The call fails: code and message."""
        try:
            await self.client(method, *args, **fields)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"{method} succeeded")


def serve(
    directory: Path,
    services: dict[str, object],
    check: Callable[[Serving], Awaitable[None]],
    *,
    longest_wait: float = 10.0,
) -> None:
    """Run ``check`` against the services, by name, and let them end in good order."""

    async def run() -> None:
        observer = Counted()
        calls = Calls(observer, KeyedLocks(longest_wait))
        handlers = [
            calls.handler(service, csi_pb2.DESCRIPTOR.services_by_name[name])
            for name, service in services.items()
        ]
        server = Server(directory / "csi.sock", handlers)
        await server.start()
        try:
            async with asyncio.timeout(TIMEOUT), connected(server.path) as client:
                await check(Serving(client, observer, logs))
        finally:
            await server.close(1)
        assert not server.path.exists()

    with capture_logs() as logs:
        asyncio.run(run())
