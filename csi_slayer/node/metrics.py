"""Metrics of the node service, with those of all its workers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.parser import text_string_to_metric_families

from csi_slayer.cache import Usage
from csi_slayer.errors import MountFailed
from csi_slayer.node.asking import ask
from csi_slayer.node.publishing import Publishing
from csi_slayer.node.running import State
from csi_slayer.observability.instruments import LATENCY_BOUNDS, Histogram

WORKER_TIMEOUT: Final = 3.0
"""Seconds that all workers together may take; one that has not answered is left out."""


class Counts:
    """What the node service counts and nothing else knows."""

    def __init__(self) -> None:
        self.published: dict[str, Histogram] = {"ok": Histogram(), "error": Histogram()}


def families(
    publishing: Publishing,
    counts: Counts,
    *,
    keeper: bool,
    limited: bool,
    templates: int,
    events_dropped: int,
    hung: int,
) -> Iterator[Metric]:
    """The node service's own families at this moment."""
    volumes = list(publishing.volumes.values())
    states = Counter(volume.state for volume in volumes)
    workers = GaugeMetricFamily(
        "slayerfs_node_workers",
        "volumes on this node by what their workers do",
        labels=["state"],
    )
    for state in State:
        workers.add_metric([state.value], states[state])
    yield workers
    restarts = publishing.restarts + sum(volume.restarts for volume in volumes)
    unsaved = sum(volume.finishing for volume in volumes)
    for name, text, value in (
        ("worker_restarts", "workers that died and were started again", restarts),
        (
            "unfinished_uploads",
            "volumes unpublished before all was uploaded",
            publishing.unfinished,
        ),
        ("template_starts", "processes that workers are forked from", templates),
        ("workers_hung", "workers that were ended because they did not answer", hung),
        ("events_dropped", "Kubernetes events that could not be sent", events_dropped),
    ):
        yield CounterMetricFamily(f"slayerfs_node_{name}", text, value)
    for name, text, value in (
        ("finishing_volumes", "volumes without a pod whose uploads go on", unsaved),
        (
            "orphaned_volumes",
            "volumes with staged uploads that nobody can upload",
            len(publishing.orphans),
        ),
        ("keeper_connected", "1: mounts outlive the node service", int(keeper)),
        ("cgroup_limits", "1: each worker has the limits that are configured", int(limited)),
    ):
        yield GaugeMetricFamily(f"slayerfs_node_{name}", text, value)
    seconds = HistogramMetricFamily(
        "slayerfs_node_publish_seconds", "time of a NodePublishVolume", labels=["result"]
    )
    bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
    for result, histogram in counts.published.items():
        found, total = histogram.read()
        seconds.add_metric([result], list(zip(bounds, map(float, found), strict=True)), total)
    yield seconds


def of_cache(usage: Usage, min_free: int, evicted: int) -> Iterator[Metric]:
    """The families of the node's cache; ``min_free``: what is left free on its file system."""
    for name, text, value in (
        ("segments", "cached bytes that the store has, too", usage.used),
        ("staged", "written bytes of all volumes that the store does not have yet", usage.staged),
        ("capacity", "most bytes of both together", usage.capacity),
        ("free", "free bytes of the cache's file system", usage.free),
        ("min_free", "bytes that the cache leaves free there", min_free),
    ):
        yield GaugeMetricFamily(f"slayerfs_node_cache_{name}_bytes", text, value)
    yield CounterMetricFamily(
        "slayerfs_node_cache_evicted_bytes", "bytes evicted from the node's cache", evicted
    )


async def of_workers(controls: Iterable[str]) -> list[Metric]:
    """The metrics of the workers at these control sockets, merged by family."""

    async def text_of(control: str) -> str:
        try:
            return str((await ask(control, "metrics", timeout=WORKER_TIMEOUT)).get("text", ""))
        except MountFailed:
            return ""  # it is starting, or it has no time: the next scrape will see it

    texts = await asyncio.gather(*map(text_of, controls))
    return await asyncio.to_thread(merge, texts)


def merge(texts: Iterable[str]) -> list[Metric]:
    """Several expositions as one: each family once, with the samples of all."""
    families: dict[str, Metric] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            known = families.setdefault(family.name, family)
            if known is not family:
                known.samples.extend(family.samples)
    return list(families.values())
