"""What the layers report, as metrics and spans."""

from __future__ import annotations

import time

from csi_slayer.observability.metrics import Metrics, OperationMeter, RequestMeter
from csi_slayer.observability.tracing import AttributeValue, NullTracer, Tracer
from csi_slayer.store.observe import GIVEN_UP


class StoreHealth:
    """Whether the store does what it is asked. Times in seconds since 1970, 0 for never."""

    __slots__ = ("answers", "last_error", "last_failure", "last_success")

    def __init__(self) -> None:
        self.answers = True
        self.last_success = self.last_failure = 0.0
        self.last_error = ""

    def answered(self) -> None:
        self.answers = True
        self.last_success = time.time()

    def failed(self, reason: str) -> None:
        """Told after :meth:`answered` if the answer was a refusal."""
        self.answers = False
        self.last_failure = time.time()
        self.last_error = reason


class Events:
    """Implements the event protocols of content and VFS, and the observers of store and FUSE."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.tracer: Tracer = NullTracer()
        self._operations: dict[str, OperationMeter] = {}
        self._requests: dict[str, RequestMeter] = {}
        self.store = StoreHealth()

    def cache_read(self, hit: int, miss: int) -> None:
        if hit:
            self._metrics.cache_hit_bytes.add(hit)
        if miss:
            self._metrics.cache_miss_bytes.add(miss)

    def conflict(self) -> None:
        self._metrics.conflicts.add()

    def hidden_keys(self, count: int) -> None:
        self._metrics.hidden_keys.add(count)

    def opened(self, passthrough: bool) -> None:
        self._metrics.opens.add()
        if passthrough:
            self._metrics.passthrough_opens.add()

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None:
        meter = self._requests.get(op)
        if meter is None:
            meter = self._requests[op] = self._metrics.store_request(op)
        meter.record("no answer" if status is None else status, seconds)
        if status not in (None, GIVEN_UP):
            self.store.answered()
        if sent:
            self._metrics.store_sent_bytes.add(sent)
        if received:
            self._metrics.store_received_bytes.add(received)
        if self.tracer.enabled:
            said: dict[str, AttributeValue] = {"sent": sent, "received": received}
            failure = "no answer"
            if status == GIVEN_UP:
                said["given_up"] = True
                failure = ""
            elif status is not None:
                said["http.response.status_code"] = status
                failure = f"HTTP {status}" if status >= 500 else ""
            self.tracer.record(f"s3.{op}", seconds, said, failure)

    def on_retry(self) -> None:
        self._metrics.store_retries.add()

    def on_failure(self, reason: str) -> None:
        self.store.failed(reason)

    def observe(self, op: str, seconds: float) -> None:
        """A kernel request was answered."""
        self._operation(op).record(seconds)
        self._metrics.upcalls.add()

    def failed(self, op: str, errno: int) -> None:
        """It was answered with an error."""
        self._operation(op).error(errno)

    def _operation(self, op: str) -> OperationMeter:
        meter = self._operations.get(op)
        if meter is None:
            meter = self._operations[op] = self._metrics.operation(op)
        return meter
