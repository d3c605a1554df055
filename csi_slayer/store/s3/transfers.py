"""Bulk transfers: a bounded number of threads, each with a connection while it works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.channel import Channel
from csi_slayer.store.s3.halt import Halt, Halted
from csi_slayer.store.s3.resolver import Addresses, Resolver
from csi_slayer.store.s3.target import Target
from csi_slayer.store.threads import Crews, run_in_thread

T = TypeVar("T")


class Lane:
    """A connection and a reused buffer."""

    def __init__(self, target: Target) -> None:
        self.channel = Channel(target)
        self.halt = Halt()
        self._buffer = bytearray()

    def buffer(self, size: int) -> memoryview:
        """Memory of this size, valid until the next call."""
        if len(self._buffer) != size:
            self._buffer = bytearray(size)
        return memoryview(self._buffer)


class Transfers:
    """Runs jobs in threads; of those that send, and of those that fetch, at most ``threads`` at a
    time."""

    def __init__(self, target: Target, resolver: Resolver, threads: int) -> None:
        self._target = target
        self._resolver = resolver
        self._crews = Crews(threads, "s3-bulk")
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._all: list[Lane] = []
        self._active: set[Halt] = set()
        self._closed = False

    async def prepare(self, work: Callable[[], T]) -> T:
        """The result of reading what is to be sent. Cancelled, it waits for the thread's end."""
        if self._closed:
            raise Transient("the store is closed", limit=1)
        return await run_in_thread(self._crews.sending.executor, work, lambda: None)

    async def run(self, job: Callable[[Lane], T], *, sends: bool) -> T:
        """The job's result. A job must leave nothing to be read on the lane's channel.

        Cancelled, it stops the job and returns when the job's thread has let go of everything.
        """
        crew = self._crews.of(sends=sends)
        async with crew.turns:
            addresses = await self._resolver.addresses()
            if self._closed:
                raise Transient("the store is closed", limit=1)
            halt = Halt()
            self._active.add(halt)
            try:
                return await run_in_thread(
                    crew.executor, lambda: self._work(job, halt, addresses), halt.request
                )
            except Halted:
                raise Transient("the store is closed", limit=1) from None
            finally:
                self._active.discard(halt)

    def _another(self) -> Lane:
        lane = Lane(self._target)
        self._all.append(lane)
        return lane

    @property
    def moved(self) -> int:
        """Bytes of bodies sent and received since the start."""
        return sum(lane.channel.moved for lane in self._all)

    def stop(self) -> None:
        """Stop what is under way and begin nothing new."""
        self._closed = True
        for halt in self._active:
            halt.request()

    async def close(self) -> None:
        """Stop, wait for the threads to end and close the connections."""
        self.stop()
        await self._crews.end()
        for lane in self._lanes:
            lane.channel.close()
        self._lanes.clear()

    def _work(self, job: Callable[[Lane], T], halt: Halt, addresses: Addresses) -> T:
        with self._lock:
            lane = self._lanes.pop() if self._lanes else self._another()
        lane.halt = halt
        try:
            lane.channel.begin(addresses, halt)
            result = job(lane)
            lane.channel.finish()
        except BaseException:
            lane.channel.close()
            raise
        finally:
            with self._lock:
                self._lanes.append(lane)
        return result
