"""What changes while a volume is in use, and what the kubelet says of it."""

from __future__ import annotations

import re

from e2e.tests.support.driver import Driver
from e2e.tests.support.objects import DRIVER
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Contents, Space

_METRIC = re.compile(r"^kubelet_volume_stats_(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def test_attributes_change_in_the_running_worker(space: Space, driver: Driver) -> None:
    space.apply(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttributesClass",
            "metadata": {"name": space.unique("relaxed")},
            "driverName": DRIVER,
            "parameters": {"durability": "writeback", "metadataTtl": "5m"},
        }
    )
    space.claim()
    space.running("pod", "data")
    contents = Contents.of(space, space.bound())
    before = driver.worker(contents.prefix)
    assert before["durability"] == "close"
    change = {"spec": {"volumeAttributesClassName": space.unique("relaxed")}}
    space.patch("PersistentVolumeClaim", "data", change)
    space.api.wait(
        "PersistentVolumeClaim", "data", space.name,
        lambda seen: (seen or {})["status"].get("currentVolumeAttributesClassName")
        == space.unique("relaxed"),
        "changed",
    )  # fmt: skip
    now = poll(
        lambda: driver.worker(contents.prefix),
        lambda seen: seen["durability"] == "writeback",
        "the worker has not heard of it",
    )
    assert now["pid"] == before["pid"], "it was restarted for it"
    space.sh("pod", "echo fast > /data/file")
    space.remove("Pod", "pod")  # uploads what is pending
    assert contents.read("file") == b"fast\n"


def test_the_kubelet_knows_how_full_a_volume_is(space: Space) -> None:
    space.claim(size="256Mi")
    space.running("pod", "data")
    space.sh("pod", "dd if=/dev/zero of=/data/file bs=1M count=10 2>/dev/null; mkdir /data/d")

    def metrics() -> dict[str, float]:
        text = space.api.node_metrics(space.environment.node)
        return {
            name: float(value)
            for name, labels, value in _METRIC.findall(text)
            if f'namespace="{space.name}"' in labels
        }

    found = poll(metrics, lambda seen: seen.get("used_bytes", 0) >= 10 << 20, "the kubelet knows")
    assert found["capacity_bytes"] == 256 << 20
    assert found["used_bytes"] + found["available_bytes"] == 256 << 20
    assert found["inodes_used"] >= 2
    assert found.get("health_status_abnormal", 0) == 0
