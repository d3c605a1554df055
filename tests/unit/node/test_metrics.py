"""Metrics of many workers as one exposition."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from csi_slayer.node.metrics import merge


def exposition(volume: str, value: float) -> str:
    registry = CollectorRegistry()
    Counter("slayerfs_opens", "opens", ["volume"], registry=registry).labels(volume).inc(value)
    Gauge("slayerfs_bytes", "bytes", ["volume"], registry=registry).labels(volume).set(value)
    histogram = Histogram("slayerfs_seconds", "time", ["volume"], registry=registry)
    histogram.labels(volume).observe(value)
    return generate_latest(registry).decode()


class Merged(Collector):
    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def collect(self):  # type: ignore[no-untyped-def]
        return merge(self.texts)


def test_each_family_is_there_once_with_all_samples() -> None:
    registry = CollectorRegistry()
    registry.register(Merged(exposition("a", 1), "", exposition("b", 2)))
    text = generate_latest(registry).decode()
    for family in ("slayerfs_opens_total", "slayerfs_bytes", "slayerfs_seconds"):
        assert text.count(f"# TYPE {family} ") == 1
    assert 'slayerfs_opens_total{volume="a"} 1.0' in text
    assert 'slayerfs_opens_total{volume="b"} 2.0' in text
    assert 'slayerfs_seconds_bucket{le="+Inf",volume="b"} 1.0' in text


def test_nothing_is_nothing() -> None:
    assert merge([]) == []
    assert merge(["", ""]) == []
