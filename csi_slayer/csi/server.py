"""gRPC services on a unix socket that only root, or the driver's own user, can connect to."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from csi_slayer.errors import ConfigError
from csi_slayer.observability.serve import remove_stale_socket

GRACE: Final = 12.0
"""Seconds that calls under way have to end in when the process is asked to end; then they are
cancelled, and the caller's next attempt finds what they have done."""

MOST_CALLS: Final = 256
"""Calls under way at a time; more are answered RESOURCE_EXHAUSTED."""


class Server:
    """Serves until :meth:`close`. Kubelet and sidecars run as root, or as the same user."""

    def __init__(self, path: Path, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.path = path
        self._server = grpc.aio.server(maximum_concurrent_rpcs=MOST_CALLS)
        self._server.add_generic_rpc_handlers(tuple(handlers))
        self._inode: int | None = None

    async def start(self) -> None:
        """Raises ConfigError where nothing can listen, or another process does."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_socket(str(self.path))
            if self.path.exists():
                raise ConfigError(
                    f"{self.path} is in use: end the process that serves it, or remove the file"
                )
            mask = os.umask(0o177)
            try:
                self._server.add_insecure_port(f"unix:{self.path}")
            finally:
                os.umask(mask)
            self._inode = self.path.lstat().st_ino
            await self._server.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.path}: {error.strerror}") from error
        except RuntimeError as error:  # gRPC's, with its reasons in its own log
            raise ConfigError(f"cannot listen on {self.path}: gRPC could not bind it") from error

    def lost(self) -> bool:
        """Whether somebody removed or replaced the socket's file."""
        try:
            found = self.path.lstat()
        except OSError:
            return True
        return found.st_ino != self._inode or not stat.S_ISSOCK(found.st_mode)

    async def close(self, grace: float = GRACE) -> None:
        """Take no more calls, and wait at most ``grace`` seconds for those under way."""
        mine = self._inode is not None and not self.lost()
        await self._server.stop(grace)
        if mine:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
