"""What a mount counts.

Whoever counts on a hot path asks for its meter once (``metrics.operation("read")``) and keeps it.
"""

from __future__ import annotations

import errno as errno_module
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from csi_slayer.observability.instruments import LATENCY_BOUNDS, Counter, Gauge, Histogram

# Most distinct label values of one family: a bug in a caller must not eat the memory.
_MOST_SERIES = 256


class OperationMeter:
    """One type of file system operation."""

    __slots__ = ("_errors", "latency", "record")

    def __init__(self) -> None:
        self.latency = Histogram()
        self.record = self.latency.observe
        """``record(seconds)``: one more of it, successful or not."""
        self._errors: dict[int, Counter] = {}

    def error(self, errno: int) -> None:
        """It was answered with an error; the latency is recorded separately."""
        counter = self._errors.get(errno)
        if counter is None:
            counter = self._errors.setdefault(errno, Counter())
        counter.add()

    def errors(self) -> dict[str, int]:
        """Count by name of the error (``ENOENT``)."""
        return {
            errno_module.errorcode.get(number, str(number)): counter.value
            for number, counter in self._errors.copy().items()
        }


class RequestMeter:
    """One type of request to the object store."""

    __slots__ = ("_statuses",)

    def __init__(self) -> None:
        self._statuses: dict[str, Histogram] = {}

    def record(self, status: int | str, seconds: float) -> None:
        """One attempt ended: HTTP status, or a word such as ``timeout`` where there was none."""
        key = str(status)
        histogram = self._statuses.get(key)
        if histogram is None:
            if len(self._statuses) >= _MOST_SERIES:
                key = "other"
            histogram = self._statuses.setdefault(key, Histogram())
        histogram.observe(seconds)

    def statuses(self) -> dict[str, Histogram]:
        return self._statuses.copy()


class Metrics:
    """All metrics of one mount, on a registry of their own; ``labels`` are on each sample, those
    of the process among them."""

    def __init__(self, **labels: str) -> None:
        self.upcalls = Counter()
        self.opens = Counter()
        self.passthrough_opens = Counter()
        self.cache_hit_bytes = Counter()
        self.cache_miss_bytes = Counter()
        self.cache_evicted_bytes = Counter()
        self.cache_corrupt_blocks = Counter()
        self.store_sent_bytes = Counter()
        self.store_received_bytes = Counter()
        self.store_retries = Counter()
        self.conflicts = Counter()
        self.hidden_keys = Counter()
        self.cache_bytes = Gauge()
        self.dirty_bytes = Gauge()
        self.pending_uploads = Gauge()
        self.oldest_pending_seconds = Gauge()
        self.store_answers = Gauge()
        self.store_answers.set(1)
        self._operations: dict[str, OperationMeter] = {}
        self._requests: dict[str, RequestMeter] = {}
        self.registry = CollectorRegistry()
        self.registry.register(_Labelled(_Exposition(self), labels))
        self.registry.register(_Labelled(ProcessCollector(registry=None), labels))

    def operation(self, name: str) -> OperationMeter:
        """The meter of a file system operation; the same object for the same name."""
        if name not in self._operations and len(self._operations) >= _MOST_SERIES:
            name = "other"
        return self._operations.setdefault(name, OperationMeter())

    def store_request(self, name: str) -> RequestMeter:
        """The meter of a store request (``GetObject``); the same object for the same name."""
        if name not in self._requests and len(self._requests) >= _MOST_SERIES:
            name = "other"
        return self._requests.setdefault(name, RequestMeter())

    def operations(self) -> dict[str, OperationMeter]:
        return self._operations.copy()

    def store_requests(self) -> dict[str, RequestMeter]:
        return self._requests.copy()

    def snapshot(self) -> dict[str, int]:
        """The plain counters and gauges by attribute name, and ``operations``, ``store_requests``
        and ``operation_errors`` as totals: what a status display wants."""
        values = {
            name: value.value
            for name, value in vars(self).items()
            if isinstance(value, Counter | Gauge)
        }
        meters = self.operations().values()
        values["operations"] = sum(meter.latency.read()[0][-1] for meter in meters)
        values["operation_errors"] = sum(sum(meter.errors().values()) for meter in meters)
        values["store_requests"] = sum(
            histogram.read()[0][-1]
            for meter in self.store_requests().values()
            for histogram in meter.statuses().values()
        )
        return values


_HELP = {
    "upcalls": "requests that the kernel sent to the worker",
    "opens": "opens that reached the worker",
    "passthrough_opens": "opens whose reads and writes the kernel serves by itself",
    "cache_hit_bytes": "bytes that reads found in the cache",
    "cache_miss_bytes": "bytes that reads had to fetch",
    "cache_evicted_bytes": "bytes evicted from the cache",
    "cache_corrupt_blocks": "cached blocks dropped because their checksum differed",
    "store_sent_bytes": "bytes of bodies sent to the store",
    "store_received_bytes": "bytes of bodies received from the store",
    "store_retries": "requests to the store that were sent again",
    "conflicts": "uploads refused because somebody else had changed the object",
    "hidden_keys": "keys met that cannot be file names",
    "cache_bytes": "bytes in the cache",
    "dirty_bytes": "bytes staged: of what the store does not have yet, or of files that are open"
    " for writing",
    "pending_uploads": "files that wait for their upload or are in it",
    "oldest_pending_seconds": "time since the change that has waited longest for its upload",
    "store_answers": "1 if the last request to the store was answered, 0 if it failed",
}


class _Labelled(Collector):
    """Another collector's samples, with labels that are the same on all."""

    def __init__(self, inner: Collector, labels: Mapping[str, str]) -> None:
        self._inner = inner
        self._labels = dict(labels)

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            metric.samples = [
                sample._replace(labels={**self._labels, **sample.labels})
                for sample in metric.samples
            ]
            yield metric

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing to check at registration: this registry has no other such names


class _Exposition(Collector):
    """Turns the instruments into Prometheus samples at the moment of a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, help_text in _HELP.items():
            instrument = getattr(self._metrics, name)
            family: CounterMetricFamily | GaugeMetricFamily
            kind = CounterMetricFamily if isinstance(instrument, Counter) else GaugeMetricFamily
            family = kind(f"slayerfs_{name}", help_text, labels=())
            family.add_metric((), instrument.value)
            yield family
        yield from self._operations()
        yield self._requests()

    def _operations(self) -> Iterator[Metric]:
        latency = HistogramMetricFamily(
            "slayerfs_operation_seconds",
            "time from reading a kernel request to answering it",
            labels=["operation"],
        )
        errors = CounterMetricFamily(
            "slayerfs_operation_errors",
            "kernel requests answered with an error",
            labels=["operation", "errno"],
        )
        for name, meter in self._metrics.operations().items():
            buckets, total = _buckets(meter.latency)
            latency.add_metric([name], buckets, total)
            for errno, count in meter.errors().items():
                errors.add_metric([name, errno], count)
        yield latency
        yield errors

    def _requests(self) -> Metric:
        family = HistogramMetricFamily(
            "slayerfs_store_request_seconds",
            "time of one attempt of a store request; status 499: the worker itself gave it up",
            labels=["operation", "status"],
        )
        for name, meter in self._metrics.store_requests().items():
            for status, histogram in meter.statuses().items():
                buckets, total = _buckets(histogram)
                family.add_metric([name, status], buckets, total)
        return family


_BOUND_LABELS = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    counts, total = histogram.read()
    return [(label, float(n)) for label, n in zip(_BOUND_LABELS, counts, strict=True)], total
