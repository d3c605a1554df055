"""An event loop without waiting: timers fire at once when nothing else is to do, and what would
run in a thread runs inline. A run is a function of its input alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class InstantLoop(asyncio.SelectorEventLoop):
    """Time stands still while callbacks are ready and jumps to the next timer when none is."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        # The base class's own parts: its ready queue and its heap of timers.
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self._now = max(self._now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(  # type: ignore[override]
        self, _executor: object, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        future = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future
