"""Calls that wait for programs: for a write that the kernel does without the worker, above all.

Such a write holds the lock of the staged file for as long as the memory takes that it copies from,
and that may be a mapping of a file that only this worker can bring, or that of another volume. So
what needs the lock runs in threads of its own: were it the event loop, or were they the threads in
which what others wait for is read, nobody could bring the page.

Mostly nobody holds the lock, and the call is over in microseconds: one thread does them all, for
each further one that wakes has to be given the interpreter, which costs more than the call. Others
join it as soon as it is held up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from csi_slayer.store.source import read_at_once

T = TypeVar("T")

THREADS = 32
"""Most such calls at once; further ones wait for them."""

HELD_UP = 0.002
"""Seconds without a call that ends after which, if some have not begun, another thread joins."""


class Patient:
    """The threads of one event loop. They end with the process, which does not wait for them."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = 0
        self._ended = 0
        self._watched = False

    async def run(
        self,
        call: Callable[[int], T],
        fd: int,
        left: Callable[[asyncio.Future[T]], object] = lambda call: None,
    ) -> T:
        """``call`` of a duplicate of the descriptor, so that the file is the same whatever becomes
        of who waits here. Raises what it raises. If the waiter is cancelled, ``left`` is told of a
        call that has begun and goes on."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()
        held = [os.dup(fd)]  # whoever takes it out closes it

        def work() -> None:
            tell = _nothing
            try:
                own = held.pop()
            except IndexError:
                pass  # nobody wants it any more
            else:
                try:
                    try:
                        tell = partial(_tell_value, call(own))
                    finally:
                        os.close(own)  # of a file on NFS it may fail as well
                except BaseException as error:
                    tell = partial(_tell_error, error)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(over, tell)

        def over(tell: Callable[[asyncio.Future[T]], None]) -> None:
            self._ended += 1
            if not told.done():
                tell(told)

        self._begin(loop, work)
        try:
            return await told
        except asyncio.CancelledError:
            try:
                own = held.pop()
            except IndexError:  # it has begun
                if told.cancelled():  # else it was over just before
                    told = loop.create_future()
                told.add_done_callback(asyncio.Future.exception)  # it may be that nobody looks
                left(told)
            else:
                os.close(own)
            raise

    def _begin(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        self._waiting.put(work)
        if self._threads == 0:
            self._join()
        if not self._watched:
            self._watch(loop, None)

    def _watch(self, loop: asyncio.AbstractEventLoop, ended: int | None) -> None:
        """Look again and again while some have not begun that another thread may begin."""
        self._watched = not self._waiting.empty() and self._threads < THREADS
        if self._watched:
            if self._ended == ended:
                self._join()
            loop.call_later(HELD_UP, self._watch, loop, self._ended)

    def _join(self) -> None:
        with contextlib.suppress(RuntimeError):  # no more threads now: looked at again
            Thread(target=self._work, name="patient", daemon=True).start()
            self._threads += 1

    def _work(self) -> None:
        while True:
            self._waiting.get()()


async def read_small(patient: Patient, fd: int, size: int) -> bytes:
    """The first ``size`` bytes of a staged file, or what there is of them; XFS reads under the lock
    that a write has. Raises OSError."""
    data = read_at_once(fd, 0, size)
    return data if data is not None else await patient.run(lambda own: os.pread(own, size, 0), fd)


def _nothing(told: asyncio.Future[T]) -> None:
    pass


def _tell_value(value: T, told: asyncio.Future[T]) -> None:
    told.set_result(value)


def _tell_error(error: BaseException, told: asyncio.Future[T]) -> None:
    told.set_exception(error)
