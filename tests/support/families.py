"""Every metric family that the project serves, with one sample of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from prometheus_client.metrics_core import Metric

from csi_slayer.cache import Usage
from csi_slayer.csi.metrics import CallMetrics
from csi_slayer.node.metrics import Counts, families, of_cache
from csi_slayer.observability.metrics import Metrics


def of_volume() -> Iterator[Metric]:
    """What a mount serves."""
    found = Metrics(volume="docs")
    found.operation("read").error(5)
    found.store_request("GetObject").record(200, 0.1)
    return iter(found.registry.collect())


def of_driver() -> Iterator[Metric]:
    """What the driver's processes serve beside that of the volumes."""
    calls = CallMetrics()
    calls.called("/csi.v1.Node/NodePublishVolume", "OK", 0.1)
    calls.watch_emptying(lambda: 0)
    yield from calls.registry.collect()
    publishing: Any = SimpleNamespace(volumes={}, restarts=0, unfinished=0, orphans=set())
    yield from families(
        publishing, Counts(), keeper=True, limited=True, templates=1, events_dropped=0, hung=0
    )
    yield from of_cache(Usage(used=0, staged=0, capacity=0, free=0, segments=0), 0, 0)


def family_rows(found: Iterable[Metric]) -> list[list[str]]:
    """Name, type, labels and meaning of our own families, as Prometheus sees them."""
    return [
        [
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
            family.type,
            ", ".join(
                f"`{label}`"
                for label in sorted({key for it in family.samples for key in it.labels} - {"le"})
            ),
            family.documentation,
        ]
        for family in found
        if family.name.startswith("slayerfs_")
    ]
