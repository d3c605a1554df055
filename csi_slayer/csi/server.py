"""gRPC services on a unix socket that only root, or the driver's own user, can connect to.

Whoever calls connects by the path: a socket that was removed under us is made again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from csi_slayer.content.tasks import end_task
from csi_slayer.errors import ConfigError
from csi_slayer.observability import get_logger
from csi_slayer.observability.serve import remove_stale_socket

log = get_logger(__name__)

GRACE: Final = 12.0
"""Seconds that calls under way have to end in when the process is asked to end; then they are
cancelled, and the caller's next attempt finds what they have done."""

MOST_CALLS: Final = 256
"""Calls under way at a time; more are answered RESOURCE_EXHAUSTED."""

LOOK_AFTER: Final = 5.0
"""Seconds between looks at whether the socket is still there."""

_GRACE_OF_LOST: Final = 1.0


class Server:
    """Serves until :meth:`close`. Kubelet and sidecars run as root, or as the same user.

    ``on_lost`` is told that the socket was removed, and will be served again."""

    def __init__(
        self,
        path: Path,
        handlers: Sequence[grpc.GenericRpcHandler],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self._handlers = tuple(handlers)
        self._on_lost = on_lost
        self._server: grpc.aio.Server | None = None
        self._inode: int | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self, look_after: float = LOOK_AFTER) -> None:
        """Raises ConfigError where nothing can listen, or another process does."""
        await self._listen()
        self._watch = asyncio.create_task(self._look_after(look_after))

    async def _listen(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_socket(str(self.path))
            in_use = self.path.exists()
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.path}: {error.strerror}") from error
        if in_use:
            raise ConfigError(
                f"{self.path} is in use: end the process that serves it, or remove the file"
            )
        server = grpc.aio.server(maximum_concurrent_rpcs=MOST_CALLS)
        server.add_generic_rpc_handlers(self._handlers)
        # That of all threads: what one of them makes meanwhile is open to its owner at least.
        mask = os.umask(0o077)
        try:
            server.add_insecure_port(f"unix:{self.path}")
            self.path.chmod(0o600)
            self._inode = self.path.lstat().st_ino
        except (OSError, RuntimeError) as error:  # gRPC tells its reasons to its own log alone
            await server.stop(None)
            raise ConfigError(f"cannot listen on {self.path}: gRPC could not bind it") from error
        finally:
            os.umask(mask)
        self._server = server
        await server.start()

    def lost(self) -> bool:
        """Whether somebody removed or replaced the socket's file."""
        try:
            return self.path.lstat().st_ino != self._inode
        except OSError:
            return True

    async def close(self, grace: float = GRACE) -> None:
        """Take no more calls, and wait at most ``grace`` seconds for those under way. What is at
        the path then is removed (by gRPC): a successor starts afterwards."""
        await end_task(self._watch)
        if self._server is not None:
            await self._server.stop(grace)

    async def _look_after(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await self._look()
            except ConfigError as error:  # the directory may be away for a moment
                log.warning("cannot serve the socket", error=str(error))
            except Exception:  # whatever it is: nobody else serves it again
                log.exception("cannot serve the socket")

    async def _look(self) -> None:
        """Serve again if the socket is gone. Raises ConfigError."""
        if self._server is not None:
            if not self.lost():
                return
            log.warning("the socket was removed; serving it again", socket=str(self.path))
            try:
                self._on_lost()
            finally:
                await self._server.stop(_GRACE_OF_LOST)
                self._server = None
        await self._listen()
