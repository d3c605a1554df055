"""Prometheus finds on the driver's pods what alerts and dashboard ask for."""

from __future__ import annotations

import itertools

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from e2e.install import NAMESPACE
from e2e.tests.kubernetes import Kubectl
from e2e.tests.support.driver import Driver
from e2e.tests.support.space import Space
from tests.support.monitoring import METRIC, expressions

_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def ask(kubectl: Kubectl, driver: Driver, component: str, path: str) -> str:
    """What a pod of a component serves on its metrics port."""
    pod = driver.pods(component)[0]
    (port,) = (
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port["name"] == "metrics"
    )
    name = pod["metadata"]["name"]
    return kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}:{port}/proxy{path}")


def scraped(kubectl: Kubectl, driver: Driver, component: str) -> list[Metric]:
    return list(text_string_to_metric_families(ask(kubectl, driver, component, "/metrics")))


def test_pods_say_that_they_are_well(kubectl: Kubectl, driver: Driver) -> None:
    for component in ("node", "controller"):
        assert ask(kubectl, driver, component, "/healthz") == "ok\n"
        assert ask(kubectl, driver, component, "/readyz") == "ok\n"


def test_what_alerts_and_dashboard_ask_for_is_served(
    space: Space, kubectl: Kubectl, driver: Driver
) -> None:
    space.claim()
    space.bound()
    pod = space.running("pod", "data")
    space.sh(pod, "echo hello > /data/file; cat /data/file")
    found = [*scraped(kubectl, driver, "node"), *scraped(kubectl, driver, "controller")]
    served = {family.name + suffix for family in found for suffix in _SUFFIXES.get(family.type, ())}
    asked = {name for text in expressions() for name in METRIC.findall(text)}
    assert asked - served == set()


def test_samples_of_a_volume_say_whose_it_is(
    space: Space, kubectl: Kubectl, driver: Driver
) -> None:
    space.claim("labelled")
    volume = space.bound("labelled")["metadata"]["name"]
    space.running("pod", "labelled")
    samples = itertools.chain.from_iterable(
        family.samples for family in scraped(kubectl, driver, "node")
    )
    labels = [sample.labels for sample in samples if sample.labels.get("namespace") == space.name]
    assert labels
    for found in labels:
        assert found["claim"] == "labelled"
        assert found["volume"] == volume
