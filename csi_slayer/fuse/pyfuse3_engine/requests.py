"""What is common to all requests: their number, their failures, their figures."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

from csi_slayer.fuse.failures import errno_of, log_failure
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.fuse.stats import Stats
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import Request

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Requests")


class Requests:
    """``running`` are the tasks of pyfuse3 that are in a handler now."""

    def __init__(self, stats: Stats) -> None:
        self.stats = stats
        self.running: set[asyncio.Task[Any]] = set()
        self._unique = 0

    def request(self, context: pyfuse3.RequestContext | None = None) -> Request:
        """Who asks. The kernel's id of the request is not known here, so requests are counted;
        for requests on handles pyfuse3 does not say who asks."""
        self._unique += 1
        if context is None:
            return Request(self._unique, 0, 0, 0)
        return Request(self._unique, context.uid, context.gid, context.pid)


def drop_lookups(ops: Operations, ino: int, count: int) -> None:
    """Tell a file system that the kernel has ``count`` lookups of an inode less."""
    try:
        ops.forget(ino, count)
    except Exception as error:
        log_failure(Opcode.FORGET, error)


def served(
    opcode: Opcode,
) -> Callable[
    [Callable[Concatenate[S, P], Awaitable[R]]],
    Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
]:
    """Count a handler's calls, and raise what goes wrong in it as pyfuse3.FUSEError: of any other
    exception pyfuse3 would leave the request without an answer."""

    def decorate(
        handler: Callable[Concatenate[S, P], Awaitable[R]],
    ) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
        @functools.wraps(handler)
        async def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
            started = perf_counter()
            task = asyncio.current_task()
            assert task is not None
            number = 0
            self.running.add(task)
            try:
                return await handler(self, *args, **kwargs)
            except (Exception, asyncio.CancelledError) as error:
                number = errno_of(error, opcode)
                raise pyfuse3.FUSEError(number) from None
            finally:
                self.running.discard(task)
                self.stats.record(opcode, perf_counter() - started, number)

        return call

    return decorate
