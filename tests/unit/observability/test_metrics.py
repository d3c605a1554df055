"""What a mount counts and how Prometheus sees it."""

from __future__ import annotations

import errno

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from csi_slayer.observability.metrics import Metrics


def _samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"volume": "vol", **labels}.items())


def test_operations_by_type_with_latency_and_errors() -> None:
    metrics = Metrics(volume="vol")
    read = metrics.operation("read")
    assert metrics.operation("read") is read
    read.record(0.0004)
    read.record(0.3)
    read.error(errno.EIO)
    read.error(errno.EIO)
    read.error(99999)
    samples = _samples(metrics)
    name = "slayerfs_operation_seconds"
    assert samples[_key(f"{name}_count", operation="read")] == 2
    assert samples[_key(f"{name}_sum", operation="read")] == 0.3004
    assert samples[_key(f"{name}_bucket", operation="read", le="0.0005")] == 1
    assert samples[_key(f"{name}_bucket", operation="read", le="+Inf")] == 2
    errors = "slayerfs_operation_errors_total"
    assert samples[_key(errors, operation="read", errno="EIO")] == 2
    assert samples[_key(errors, operation="read", errno="99999")] == 1


def test_store_requests_by_operation_and_status() -> None:
    metrics = Metrics(volume="vol")
    get = metrics.store_request("GetObject")
    get.record(200, 0.01)
    get.record(503, 0.02)
    get.record("timeout", 30.0)
    samples = _samples(metrics)
    name = "slayerfs_store_request_seconds_count"
    for status in ("200", "503", "timeout"):
        assert samples[_key(name, operation="GetObject", status=status)] == 1


def test_plain_numbers_appear_by_their_names() -> None:
    metrics = Metrics(volume="vol")
    metrics.upcalls.add(3)
    metrics.cache_hit_bytes.add(4096)
    metrics.dirty_bytes.set(10)
    samples = _samples(metrics)
    assert samples[_key("slayerfs_upcalls_total")] == 3
    assert samples[_key("slayerfs_cache_hit_bytes_total")] == 4096
    assert samples[_key("slayerfs_dirty_bytes")] == 10
    assert samples[_key("slayerfs_conflicts_total")] == 0
    assert samples[_key("process_resident_memory_bytes")] > 0


def test_labels_are_on_every_sample() -> None:
    metrics = Metrics(volume="vol", claim="data", namespace="shop")
    metrics.operation("read").record(0.1)
    metrics.operation("read").error(errno.EIO)
    metrics.store_request("GetObject").record(200, 0.01)
    expected = {("volume", "vol"), ("claim", "data"), ("namespace", "shop")}
    for name, labels in _samples(metrics):
        assert labels >= expected, name


def test_a_snapshot_holds_every_plain_number_and_the_totals() -> None:
    metrics = Metrics(volume="vol")
    for name in metrics.snapshot():
        if name not in ("operations", "operation_errors", "store_requests"):
            assert any(
                sample == f"slayerfs_{name}" or sample == f"slayerfs_{name}_total"
                for sample, _ in _samples(metrics)
            ), f"{name} has no help text, so that Prometheus never sees it"
    metrics.operation("read").record(1.0)
    metrics.operation("write").error(errno.ENOSPC)
    metrics.store_request("PutObject").record(200, 1.0)
    metrics.opens.add()
    snapshot = metrics.snapshot()
    assert snapshot["operations"] == 1
    assert snapshot["operation_errors"] == 1
    assert snapshot["store_requests"] == 1
    assert snapshot["opens"] == 1


def test_the_number_of_series_is_limited() -> None:
    metrics = Metrics(volume="vol")
    for number in range(1000):
        metrics.operation(f"op-{number}").record(0.1)
        metrics.store_request(f"op-{number}").record(number, 0.1)
        metrics.store_request("op-1").record(number, 0.1)
    assert len(metrics.operations()) <= 257
    assert len(metrics.store_requests()) <= 257
    assert len(metrics.store_requests()["op-1"].statuses()) <= 257
    assert metrics.snapshot()["operations"] == 1000
    assert metrics.snapshot()["store_requests"] == 2000


def test_two_mounts_in_a_process_do_not_mix() -> None:
    first, second = Metrics(volume="a"), Metrics(volume="b")
    first.opens.add()
    assert second.snapshot()["opens"] == 0
