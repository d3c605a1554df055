"""Counters, gauges and latency histograms that are cheap enough for every kernel request.

prometheus_client's own histogram costs several microseconds an observation; these cost a fraction
of one (a lock, a bisection, two additions) and are turned into Prometheus samples only when
somebody asks. All of them may be used from any thread.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Final

# Upper bounds in seconds: from a request answered from memory to a store that is away.
LATENCY_BOUNDS: Final = (
    0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip


class Counter:
    """A number that only grows."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0

    def add(self, amount: int = 1) -> None:
        with self._lock:
            self._value += amount

    @property
    def value(self) -> int:
        return self._value


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0

    def set(self, value: int) -> None:
        with self._lock:
            self._value = value

    def add(self, amount: int) -> None:
        """Change by ``amount``, which may be negative."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> int:
        return self._value


class Histogram:
    """How often something took how long."""

    __slots__ = ("_counts", "_lock", "_sum")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        bucket = bisect_left(LATENCY_BOUNDS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    def read(self) -> tuple[list[int], float]:
        """Cumulative counts, one for each bound and one for all, and the sum in seconds."""
        with self._lock:
            counts, total = self._counts.copy(), self._sum
        for index in range(1, len(counts)):
            counts[index] += counts[index - 1]
        return counts, total
