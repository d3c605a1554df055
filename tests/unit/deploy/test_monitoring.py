"""Alerts and dashboard ask for metrics and labels that exist."""

from __future__ import annotations

import re
from itertools import chain

import promql_parser

from tests.support.families import of_driver, of_volume
from tests.support.monitoring import METRIC, dashboard, expressions, rules

_LABEL = re.compile(r"([a-z_]+)(?:=~|!~|!=|=)\"")
_GROUP = re.compile(r"\bby \(([a-z_, ]+)\)")

# What the node service adds to a volume's samples, and Prometheus to all of a pod's.
ADDED = {"volume", "claim", "namespace", "node", "pod", "le"}


def families() -> dict[str, set[str]]:
    """Names of samples with their labels, as the code serves them."""
    found: dict[str, set[str]] = {}
    for family in chain(of_volume(), of_driver()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_expressions_are_promql() -> None:
    for text in expressions():
        if not text.startswith("label_values("):  # Grafana's own
            promql_parser.parse(text.replace("$__rate_interval", "5m"))


def test_metrics_exist() -> None:
    known = families()
    unknown = {name for text in expressions() for name in METRIC.findall(text)} - set(known)
    assert unknown == set()


def test_labels_exist() -> None:
    known = families()
    for text in expressions():
        allowed = ADDED.union(*(known[name] for name in METRIC.findall(text)))
        used = set(_LABEL.findall(text))
        for group in _GROUP.findall(text):
            used |= {name.strip() for name in group.split(",")}
        assert used <= allowed, text


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["summary"]) < 100
        assert len(rule["annotations"]["description"]) > 60
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)


def test_the_summary_names_labels_that_the_expression_keeps() -> None:
    for rule in rules():
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        groups = _GROUP.findall(rule["expr"])
        kept = {name.strip() for name in groups[0].split(",")} if groups else ADDED
        assert named <= kept, rule["alert"]


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
