"""What the node service says of the cache that it keeps within its capacity."""

from __future__ import annotations

from csi_slayer.cache import Usage
from csi_slayer.node.metrics import of_cache


def test_the_cache_is_measured_against_its_limits() -> None:
    usage = Usage(used=5, staged=3, capacity=10, free=100, segments=2)
    values = {
        sample.name.removeprefix("slayerfs_node_cache_"): sample.value
        for family in of_cache(usage, min_free=50, evicted=7)
        for sample in family.samples
    }
    assert values == {
        "segments_bytes": 5,
        "staged_bytes": 3,
        "capacity_bytes": 10,
        "free_bytes": 100,
        "min_free_bytes": 50,
        "evicted_bytes_total": 7,
    }
