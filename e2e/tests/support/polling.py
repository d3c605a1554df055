"""Looking again and again at what cannot be watched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from e2e.tests.support.api import WAIT

T = TypeVar("T")

_PAUSE = 0.5


def poll(
    look: Callable[[], T], enough: Callable[[T], object], problem: str, timeout: float = WAIT
) -> T:
    """What ``look`` found at last. Raises AssertionError with the ``problem`` and what it found if
    that is not ``enough`` after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not enough(found := look()):
        assert time.monotonic() < end, f"{problem}: {found}"
        time.sleep(_PAUSE)
    return found
