"""An event loop without waiting: timers fire at once when nothing else is to do, and what would
run in a thread runs inline. A run is a function of its input alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from csi_slayer.content.patient import Patient


class InstantLoop(asyncio.SelectorEventLoop):
    """Time stands still while callbacks are ready and jumps to the next timer when none is.

    ``threaded``: calls run in threads after all; as long as one does, time is real.
    """

    def __init__(self) -> None:
        super().__init__()
        self.threaded = False
        self._now = 0.0
        self._threads = 0
        self._real_since = 0.0

    def time(self) -> float:
        if self._threads:
            return self._now + time.monotonic() - self._real_since
        return self._now

    def _run_once(self) -> None:
        # The base class's own parts: its ready queue and its heap of timers.
        if not self._ready and self._scheduled and not self._threads:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if self.threaded:
            return self._in_thread(executor, function, *args)
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _in_thread(
        self, executor: Any, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        if not self._threads:
            self._real_since = time.monotonic()
        self._threads += 1
        future = super().run_in_executor(executor, function, *args)
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        now = self.time()
        self._threads -= 1
        if not self._threads:
            self._now = now


class InstantPatient(Patient):
    """Its calls are the loop's to run, as those of all other threads."""

    def _begin(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
        loop.run_in_executor(None, work)
