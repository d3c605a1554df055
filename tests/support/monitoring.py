"""What the chart's alerts and dashboard ask Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.support.chart import CHART

METRIC = re.compile(r"\bslayerfs_[a-z0-9_]+")
"""A metric's name in an expression."""


def rules() -> list[dict[str, Any]]:
    """The alerts."""
    text = (CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Grafana's."""
    found: dict[str, Any] = json.loads(
        (CHART / "files" / "dashboard.json").read_text(encoding="utf-8")
    )
    return found


def expressions() -> Iterator[str]:
    """Every expression, and what Grafana's variables are made from."""
    for rule in rules():
        yield rule["expr"]
    found = dashboard()
    for panel in found["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["definition"]
