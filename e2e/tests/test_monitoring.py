"""Prometheus finds on the driver's pods what alerts and dashboard ask for."""

from __future__ import annotations

from functools import partial

from e2e.tests.support.driver import Driver
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Space
from tests.support.monitoring import METRIC, expressions

_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def test_pods_say_that_they_are_well(driver: Driver) -> None:
    for component in ("node", "controller"):
        look = partial(driver.problem, component)
        poll(look, lambda told: told is None, f"the {component} service is not ready")
        assert driver.ask(component, "healthz") == "ok\n"


def test_what_alerts_and_dashboard_ask_for_is_served(space: Space, driver: Driver) -> None:
    space.claim()
    space.bound()
    pod = space.running("pod", "data")
    space.sh(pod, "echo hello > /data/file; cat /data/file")
    asked = {name for text in expressions() for name in METRIC.findall(text)}

    def missing() -> set[str]:
        found = [*driver.scrape("node"), *driver.scrape("controller")]
        return asked - {
            family.name + suffix for family in found for suffix in _SUFFIXES.get(family.type, ())
        }

    poll(missing, lambda left: not left, "asked for and not served")


def test_samples_of_a_volume_say_whose_it_is(space: Space, driver: Driver) -> None:
    space.claim("labelled")
    volume = space.bound("labelled")["metadata"]["name"]
    space.running("pod", "labelled")

    def labels() -> list[dict[str, str]]:
        families = driver.scrape("node")
        found = (sample.labels for family in families for sample in family.samples)
        return [each for each in found if each.get("namespace") == space.name]

    for found in poll(labels, bool, "no sample of the volume"):
        assert found["claim"] == "labelled"
        assert found["volume"] == volume
