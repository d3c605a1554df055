"""Prometheus finds on the driver's pods what alerts and dashboard ask for."""

from __future__ import annotations

import itertools

from e2e.tests.support.driver import Driver
from e2e.tests.support.space import Space
from tests.support.monitoring import METRIC, expressions

_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def test_pods_say_that_they_are_well(driver: Driver) -> None:
    for component in ("node", "controller"):
        assert driver.ask(component, "healthz") == "ok\n"
        assert driver.ask(component, "readyz") == "ok\n"


def test_what_alerts_and_dashboard_ask_for_is_served(space: Space, driver: Driver) -> None:
    space.claim()
    space.bound()
    pod = space.running("pod", "data")
    space.sh(pod, "echo hello > /data/file; cat /data/file")
    found = [*driver.scrape("node"), *driver.scrape("controller")]
    served = {family.name + suffix for family in found for suffix in _SUFFIXES.get(family.type, ())}
    asked = {name for text in expressions() for name in METRIC.findall(text)}
    assert asked - served == set()


def test_samples_of_a_volume_say_whose_it_is(space: Space, driver: Driver) -> None:
    space.claim("labelled")
    volume = space.bound("labelled")["metadata"]["name"]
    space.running("pod", "labelled")
    samples = itertools.chain.from_iterable(family.samples for family in driver.scrape("node"))
    labels = [sample.labels for sample in samples if sample.labels.get("namespace") == space.name]
    assert labels
    for found in labels:
        assert found["claim"] == "labelled"
        assert found["volume"] == volume
