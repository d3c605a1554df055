"""Counters, gauges and histograms count exactly, from many threads too."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.observability.instruments import LATENCY_BOUNDS, Counter, Gauge, Histogram


def test_threads_lose_no_count() -> None:
    counter, gauge, histogram = Counter(), Gauge(), Histogram()

    def count() -> None:
        for _ in range(5000):
            counter.add(2)
            gauge.add(1)
            gauge.add(-1)
            histogram.observe(0.001)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counter.value, gauge.value) == (40_000, 0)
    assert histogram.read()[0][-1] == 20_000


def test_a_gauge_is_set() -> None:
    gauge = Gauge()
    gauge.set(7)
    gauge.add(-10)
    assert gauge.value == -3


@given(st.lists(st.floats(min_value=0, max_value=100) | st.sampled_from(LATENCY_BOUNDS)))
def test_buckets_hold_what_is_not_above_their_bound(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    counts, total = histogram.read()
    expected = [sum(seconds <= bound for seconds in times) for bound in LATENCY_BOUNDS]
    assert counts == [*expected, len(times)]
    assert abs(total - sum(times)) < 1e-6
