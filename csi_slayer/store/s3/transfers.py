"""Bulk transfers: a bounded number of threads, each with a connection while it works."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.channel import Addresses, Channel, Halt
from csi_slayer.store.s3.target import Target, connect_failure
from csi_slayer.store.threads import run_in_thread

T = TypeVar("T")

# How long the addresses of a name are used (seconds): services move by DNS.
_ADDRESSES_LIVE = 30.0


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
    """Runs jobs in threads; at most ``threads`` at a time, the others wait their turn."""

    def __init__(self, target: Target, threads: int) -> None:
        self._target = target
        self._turns = asyncio.Semaphore(threads)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="s3-bulk")
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._addresses: Addresses = ()
        self._resolved_at = float("-inf")

    async def run(self, job: Callable[[Lane], T]) -> T:
        """The job's result. A job must leave nothing to be read on the lane's channel.

        Cancelled, it stops the job and returns when the job's thread has let go of everything.
        """
        async with self._turns:
            addresses = await self._resolve()
            halt = Halt()
            return await run_in_thread(
                self._executor, lambda: self._work(job, halt, addresses), halt.request
            )

    async def close(self) -> None:
        """Wait for the threads to end and close the connections."""
        await asyncio.to_thread(self._executor.shutdown)
        for lane in self._lanes:
            lane.channel.close()
        self._lanes.clear()

    def _work(self, job: Callable[[Lane], T], halt: Halt, addresses: Addresses) -> T:
        with self._lock:
            lane = self._lanes.pop() if self._lanes else Lane(self._target)
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

    async def _resolve(self) -> Addresses:
        now = time.monotonic()
        if now - self._resolved_at > _ADDRESSES_LIVE:
            target = self._target
            try:
                async with asyncio.timeout(target.connect_timeout):
                    self._addresses = await asyncio.get_running_loop().getaddrinfo(
                        target.host, target.port, type=socket.SOCK_STREAM
                    )
            except OSError as error:
                if not self._addresses:
                    raise connect_failure(target, error) from error
            if not self._addresses:
                raise Transient(f"{target}: the name has no address")
            self._resolved_at = now
        return self._addresses
