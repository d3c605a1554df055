"""Copies and deletions that take longer than a call: they go on, and repeated calls join them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from csi_slayer.errors import SlayerError, VolumeBusy
from csi_slayer.volumes.turns import OWN, Turns, Work

T = TypeVar("T")

log = structlog.get_logger(__name__)

MOST = 1000
"""Jobs that are known at a time; further ones are refused until some have ended."""


class StillRunning(VolumeBusy):
    """The job goes on; the message says how far it is."""


@dataclass(slots=True)
class Progress:
    """How far a job is, for the answer to a call that does not wait for its end."""

    what: str
    objects: int = 0
    bytes: int = 0

    def add(self, objects: int, size: int = 0) -> None:
        self.objects += objects
        self.bytes += size

    def __str__(self) -> str:
        size = f", {self.bytes} bytes" if self.bytes else ""
        return f"{self.what}: {self.objects} objects{size} so far"


@dataclass
class _Job:
    task: asyncio.Task[Any]
    progress: Progress
    waiting: int = 0


class Jobs:
    """The background jobs of a process, by a key that names what is done to what.

    ``wait``: seconds for which a call waits.
    """

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._turns = Turns()
        self._jobs: dict[str, _Job] = {}
        self._closed = False

    async def join(
        self,
        key: str,
        what: str,
        work: Callable[[Progress], Awaitable[T]],
        kind: Work = Work.COPY,
        service: str = OWN,
    ) -> T:
        """The result of the job ``key``, begun with ``work`` if it does not run yet.

        ``kind``, ``service``: among which others it waits its turn.
        Raises what the job raises, or StillRunning with its progress if it goes on.
        """
        if self._closed:
            raise VolumeBusy("the controller is about to end: ask again")
        job = self._jobs.get(key)
        if job is None:
            if len(self._jobs) >= MOST:
                raise VolumeBusy(f"{what}: {MOST} others are waiting: ask again later")
            job = self._begin(key, what, work, kind, service)
        job.waiting += 1
        try:
            await asyncio.wait((job.task,), timeout=self._wait)
            if not job.task.done():
                raise StillRunning(f"{job.progress}; it goes on: ask again")
            if job.task.cancelled():
                raise VolumeBusy(f"{job.progress}; it was ended: ask again")
            result: T = job.task.result()
            return result
        finally:
            job.waiting -= 1

    def _begin(
        self,
        key: str,
        what: str,
        work: Callable[[Progress], Awaitable[T]],
        kind: Work,
        service: str,
    ) -> _Job:
        progress = Progress(what)

        async def run() -> T:
            async with self._turns.turn(kind, service):
                return await work(progress)

        job = _Job(asyncio.get_running_loop().create_task(run()), progress)
        self._jobs[key] = job
        job.task.add_done_callback(lambda _: self._ended(key, job))
        return job

    def _ended(self, key: str, job: _Job) -> None:
        self._jobs.pop(key, None)
        if job.task.cancelled():
            return
        error = job.task.exception()
        if error is None:
            log.info("a job is done", job=job.progress.what, objects=job.progress.objects)
        elif not job.waiting:
            # Whoever asks next begins it anew and gets the error, if it is still there.
            reason = str(error) if isinstance(error, SlayerError) else repr(error)
            log.warning(
                "a job failed; a repeated call continues it",
                job=job.progress.what,
                reason=reason,
            )

    async def stop(self, key: str) -> None:
        """End a job of this process, if it runs: what it makes is about to be deleted."""
        job = self._jobs.get(key)
        if job is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)

    async def close(self) -> None:
        """Cancel all and wait for their end; what they did stays, and is found in the buckets."""
        self._closed = True
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
