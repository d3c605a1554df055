"""What the layers report, as metrics."""

from __future__ import annotations

from csi_slayer.observability.metrics import Metrics


class Events:
    """Implements the event protocols of content and VFS, and the store's request observer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def cache_read(self, hit: int, miss: int) -> None:
        if hit:
            self._metrics.cache_hit_bytes.add(hit)
        if miss:
            self._metrics.cache_miss_bytes.add(miss)

    def conflict(self, key: str) -> None:
        self._metrics.conflicts.add()

    def uploaded(self, size: int) -> None:
        """Bytes sent are counted by the store's observer."""

    def hidden_keys(self, count: int) -> None:
        self._metrics.hidden_keys.add(count)

    def opened(self, passthrough: bool) -> None:
        self._metrics.opens.add()
        if passthrough:
            self._metrics.passthrough_opens.add()

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None:
        self._metrics.store_request(op).record(
            "no answer" if status is None else status, seconds
        )
        if sent:
            self._metrics.store_sent_bytes.add(sent)
        if received:
            self._metrics.store_received_bytes.add(received)

    def observe(self, op: str, seconds: float) -> None:
        """A kernel request was answered."""
        self._metrics.upcalls.add()
        self._metrics.operation(op).record(seconds)
