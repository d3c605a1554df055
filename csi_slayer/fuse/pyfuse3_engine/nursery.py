"""Where pyfuse3 keeps the tasks that read requests.

Its own for asyncio looks at no task's result: what a reader ended with is told by the garbage
collector, if at all.
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

    Raises the first task's error that is not the connection's end, once no task is left."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Nursery:
        return self

    def start_soon(
        self, reader: Callable[..., Coroutine[Any, Any, None]], *args: object, name: str
    ) -> None:
        task = asyncio.create_task(reader(*args))
        task.name = name  # type: ignore[attr-defined]  # as trio calls it: the reader looks
        self._tasks.add(task)

    async def __aexit__(self, *_: object) -> None:
        failed: BaseException | None = None
        while self._tasks:
            done, _rest = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._tasks -= done
            for task in done:
                error = None if task.cancelled() else task.exception()
                if error is None or (isinstance(error, OSError) and error.errno in _GONE):
                    continue
                log.error("fuse_reader_failed", error=repr(error))
                failed = failed or error
        if failed is not None:
            raise failed
