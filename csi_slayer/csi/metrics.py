"""What the gRPC services count."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, Histogram, ProcessCollector

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class CallMetrics:
    """Calls by method and status, on a registry that whoever serves may add collectors to."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="slayerfs_csi", registry=self.registry)
        self._seconds = Histogram(
            "slayerfs_csi_call_seconds",
            "Calls of the CSI services by method and gRPC status",
            ("method", "code"),
            buckets=_BOUNDS,
            registry=self.registry,
        )

    def watch_emptying(self, owed: Callable[[], int]) -> None:
        """Show how many inline volumes have content that is still to be deleted."""
        gauge = Gauge(
            "slayerfs_node_unemptied_volumes",
            "ended inline volumes whose content is still to be deleted",
            registry=self.registry,
        )
        gauge.set_function(owed)

    def called(self, method: str, code: str, seconds: float) -> None:
        """One call has ended. Both labels are from closed sets: methods and codes of gRPC."""
        self._seconds.labels(method, code).observe(seconds)
