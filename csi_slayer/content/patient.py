"""Calls that wait for programs: for a write that the kernel does without the worker, above all.

Such a write holds the lock of the staged file for as long as the memory takes that it copies from,
and that may be a mapping of a file that only this worker can bring, or that of another volume. So
what needs the lock runs in threads of its own: were it the event loop, or were they the threads in
which what others wait for is read, nobody could bring the page.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREADS = 32
"""Most such calls at once; further ones wait for them."""


class Patient:
    """The threads. They end with the process, which waits for them as they wait for programs."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="patient")

    async def run(
        self,
        call: Callable[[int], T],
        fd: int,
        left: Callable[[asyncio.Future[T]], object] = lambda call: None,
    ) -> T:
        """``call`` of a duplicate of the descriptor, so that the file is the same whatever becomes
        of who waits here. Raises what it raises. If the waiter is cancelled, ``left`` is told of a
        call that has begun and goes on."""
        held = [os.dup(fd)]  # whoever takes it out closes it

        def work() -> T:
            own = held.pop()
            try:
                return call(own)
            finally:
                os.close(own)

        running = asyncio.get_running_loop().run_in_executor(self._executor, work)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            try:
                own = held.pop()
            except IndexError:  # it has begun
                left(running)
            else:
                os.close(own)
                running.cancel()
            raise
