"""Blocking work in threads, such that cancelling really ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """Where the system, or the container, has no more threads, those that there are do the work.

    Its base raises then, and does nevertheless, whenever a thread is free, what it has refused:
    with the numbers of descriptors that are other files' by then.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                self._work_queue.get_nowait()  # there is no other, and nobody else takes it
                raise


async def run_in_thread(executor: Executor, work: Callable[[], T], stop: Callable[[], None]) -> T:
    """The result of ``work``, done by the executor.

    Cancelled, it calls ``stop``, which must make the work end soon, and returns only when the
    thread has let go of everything: a descriptor or buffer of the caller is then his again.
    """
    submitted = executor.submit(work)
    waiter = asyncio.wrap_future(submitted)
    try:
        return await asyncio.shield(waiter)
    except asyncio.CancelledError:
        stop()
        submitted.cancel()  # if no thread has begun it
        while not waiter.done():
            try:
                await asyncio.wait([waiter])
            except asyncio.CancelledError:
                continue  # cancelled again: the thread is still at it
        if not waiter.cancelled():
            waiter.exception()  # retrieved: nobody will ask
        raise


class Crew:
    """Threads for work of one kind; what exceeds them waits its turn."""

    def __init__(self, threads: int, name: str) -> None:
        self.turns = asyncio.Semaphore(threads)
        self.executor = Threads(threads, thread_name_prefix=name)


class Crews:
    """A store's threads: as many for what is sent from files as for all else.

    What is sent has threads of its own: it is read from files that programs write to, and on a file
    system that reads under the lock of a write (XFS) that waits for them, and they may wait for a
    page of the mount that is to be fetched. Nor does a fetch wait its turn behind long uploads.
    """

    def __init__(self, threads: int, name: str) -> None:
        self.sending = Crew(threads, f"{name}-send")
        self.others = Crew(threads, name)

    def of(self, *, sends: bool) -> Crew:
        """Those for work that does, or does not, read what it sends from a file."""
        return self.sending if sends else self.others

    async def end(self) -> None:
        """Return when all threads have ended."""
        for crew in self.others, self.sending:
            await asyncio.to_thread(crew.executor.shutdown)
