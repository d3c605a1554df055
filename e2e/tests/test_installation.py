"""Installing, upgrading and uninstalling with other values than the rest of the tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from e2e.install import install, uninstall
from e2e.tests.kubernetes import Kubectl
from e2e.tests.support.driver import Driver
from e2e.tests.support.objects import inline
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Space

SMALL: dict[str, Any] = {
    "controller": {"replicas": 0},
    "snapshots": {"enabled": False},
    "storageClasses": {"slayerfs-dataset": None, "slayerfs-writeback": None},
    "imagePullSecrets": [{"name": "not-there"}],
    "driver": {"node": {"worker_memory": "256MiB"}, "volumes": {"metadataTtl": "20s"}},
    "node": {
        "priorityClassName": "",
        "tolerations": [],
        "maxUnavailable": 1,
        "resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
        "podAnnotations": {"example.com/team": "storage"},
    },
    "keeper": {"priorityClassName": "", "tolerations": []},
    "metrics": {"port": 19464},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
}
"""Legal, and far from the defaults: the smallest driver that serves inline volumes."""


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("restored")
def test_nothing_stays_and_another_driver_can_be_installed(
    space: Space, driver: Driver, kubectl: Kubectl
) -> None:
    environment = space.environment
    driver.wait_without_volumes()
    installed = uninstall(environment)
    assert "DaemonSet" in installed
    assert kubectl("get", "--filename=-", "--ignore-not-found", "-oname", stdin=installed) == ""
    poll(
        lambda: [node["spec"].get("drivers") for node in space.api.list_all("CSINode")],
        lambda drivers: drivers in ([None], [[]]),
        "the kubelet still knows the driver, whose socket is gone",
    )

    elsewhere = environment.cache_directory.with_name("another-cache")
    small = replace(environment, cache_directory=elsewhere)
    install(small, SMALL)
    driver.wait_ready("node")
    assert driver.pods("controller") == []
    assert driver.problem("node") is None
    space.running("pod", {"/scratch": inline()})
    space.sh("pod", "echo before > /scratch/file")
    driver.wait_for_keeper()

    # A mistake: its cache is not where it was. It is told, and can be undone.
    install(environment, SMALL)
    poll(
        lambda: driver.problem("node") or "",
        lambda told: f"cache in {elsewhere}" in told,
        "the node pod does not say why it is not ready",
    )
    install(small, SMALL)
    driver.wait_ready("node")
    again = space.sh("pod", "cat /scratch/file; echo after > /scratch/file; cat /scratch/file")
    assert again == "before\nafter\n"
    space.remove("Pod", "pod")
