"""Calls that wait for programs: for a write that the kernel does without the worker, above all.

Such a write holds the lock of the staged file for as long as the memory takes that it copies from,
and that may be a mapping of a file that only this worker can bring, or that of another volume. So
what needs the lock runs in threads of its own: were it the event loop, or were they the threads in
which what others wait for is read, nobody could bring the page.
"""

from __future__ import annotations

import asyncio
import contextlib
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

    async def run(self, call: Callable[[int], T], fd: int) -> T:
        """``call`` of a duplicate of the descriptor, so that the file is the same whatever becomes
        of who waits here. Raises what it raises."""
        held = [os.dup(fd)]  # whoever takes it out closes it

        def work() -> T:
            own = held.pop()
            try:
                return call(own)
            finally:
                os.close(own)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except asyncio.CancelledError:
            with contextlib.suppress(IndexError):  # it has begun
                os.close(held.pop())
            raise
