"""The worker's end of the socket to its supervisor, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import structlog

from csi_slayer.worker import channel

log = structlog.get_logger(__name__)

Handler = Callable[[dict[str, Any]], None]


class Link:
    """``bound``: this process is to end as soon as its supervisor is gone, because a successor
    takes the mount over. It ends as a crash would end it: nothing is flushed, for the successor
    may be at work already."""

    def __init__(self, end: socket.socket, *, bound: bool) -> None:
        self._end = end
        self._bound = bound
        self._loop = asyncio.get_running_loop()
        self._handler: Handler | None = None
        self._early: list[dict[str, Any]] = []
        self._loop.add_reader(end.fileno(), self._readable)

    def send(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """Raises OSError if the supervisor is gone."""
        channel.send(self._end, message, fds)

    def say(self, message: dict[str, Any]) -> None:
        """:meth:`send` where it does not matter whether anybody is left to hear it."""
        with contextlib.suppress(OSError):
            self.send(message)

    def listen(self, handler: Handler) -> None:
        """Call ``handler`` with each message, also with those that have come already."""
        self._handler = handler
        for message in self._early:
            handler(message)
        self._early.clear()

    def close(self) -> None:
        self._loop.remove_reader(self._end.fileno())

    def _readable(self) -> None:
        try:
            received = channel.receive(self._end, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ValueError as error:
            log.error("malformed message from the supervisor", error=str(error))
            return
        except OSError:
            received = None
        if received is None:
            if self._bound:
                os._exit(channel.ABANDONED)
            self.close()
            return
        message, fds = received
        for fd in fds:
            os.close(fd)
        if self._handler is not None:
            self._handler(message)
        elif len(self._early) < channel.UNREAD:
            self._early.append(message)
