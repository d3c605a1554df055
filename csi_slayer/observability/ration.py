"""So many lines of a log in so much time, whatever programs do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LINES: Final = 100
"""Lines of one kind that are written in each :data:`PERIOD`; the rest are counted."""

PERIOD: Final = 60.0
"""Seconds."""


class Ration:
    """Used from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = 0.0
        self._lines = self._left_out = 0

    def take(self) -> int | None:
        """Whether one more line may be written: how many were left out since the last, or None."""
        now = self._clock()
        if now >= self._ends:
            self._ends, self._lines = now + PERIOD, 0
        if self._lines >= LINES:
            self._left_out += 1
            return None
        self._lines += 1
        left_out, self._left_out = self._left_out, 0
        return left_out
