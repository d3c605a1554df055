"""Where pyfuse3 keeps the tasks that read requests.

Its own for asyncio looks at no task's result: what a reader ended with is told by the garbage
collector, if at all. A reader that finds nothing to read, for the program that asked was killed
after the event loop had seen its request, ends by that, and pyfuse3 starts 99 for the life of a
connection.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)

_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})
"""Errors of a read from a connection that has ended. libfuse takes the first for the end, but not
the second, which is what a request gets whose read meets the end (``fuse_dev_do_read``,
fs/fuse/dev.c)."""


class Nursery:
    """The part of trio's nursery that pyfuse3 uses: its block lasts until every task has ended.

    A reader that finds nothing to read begins anew; its buffer, of 1 MiB at most, is lost.
    Raises the first task's error that is not the connection's end, once no task is left."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_ended = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Nursery:
        return self

    def start_soon(
        self, reader: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str
    ) -> None:
        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            if isinstance(error, BlockingIOError):
                self.start_soon(reader, *args, name=name)
            elif error is not None:
                self._note(error)
            if not self._tasks:
                self._all_ended.set()

        task = asyncio.create_task(reader(*args))
        task.name = name  # type: ignore[attr-defined]  # as trio calls it: the reader looks
        self._tasks.add(task)
        task.add_done_callback(ended)

    def _note(self, error: BaseException) -> None:
        if isinstance(error, OSError) and error.errno in _GONE:
            return
        log.error("fuse_reader_failed", error=repr(error))
        self._failure = self._failure or error

    async def __aexit__(self, *_: object) -> None:
        await self._all_ended.wait()
        if self._failure is not None:
            raise self._failure
