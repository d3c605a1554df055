"""Telling of what goes wrong again and again: once in a while, not each time.

A task that watches something for as long as its process lives must outlive what goes wrong with one
look, and a disk that is full stays full for hours.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, NamedTuple

from csi_slayer.errors import SlayerError

AGAIN: Final = 600.0
"""Seconds within which the same error of the same thing is not told again."""

MOST: Final = 1024
"""Things of which it is remembered what was told of them; the oldest are forgotten first."""


class _Told(NamedTuple):
    text: str
    at: float


class Complaints:
    """Logs errors of what is done over and over; ``log`` is the module's logger."""

    def __init__(self, log: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()

    def failed(self, about: Hashable, event: str, error: Exception, **values: Any) -> None:
        """``about`` says what the error is of. One that nobody thought of gets its traceback."""
        text = str(error) or type(error).__name__
        if not self.is_news(about, text):
            return
        unexpected = None if isinstance(error, SlayerError | OSError) else error
        self._log.warning(event, error=text, exc_info=unexpected, **values)

    def is_news(self, about: Hashable, text: str = "") -> bool:
        """Whether to tell it; it is taken to be told then."""
        now, told = self._clock(), self._told.get(about)
        if told is not None and told.text == text and now - told.at < AGAIN:
            return False
        self._told[about] = _Told(text, now)
        self._told.move_to_end(about)
        if len(self._told) > MOST:
            self._told.popitem(last=False)
        return True

    def over(self, about: Hashable) -> None:
        """It works again: its next error is told at once."""
        self._told.pop(about, None)
