"""Helm on the chart, and questions about what it renders.

Helm takes minutes to build: only what runs with the end-to-end tests calls it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from csi_slayer.config.driver import DriverConfig
from tests.support.binaries import HELM
from tests.support.chart import CHART

RELEASE = "slayerfs"
NAMESPACE = "slayerfs-system"
KUBERNETES = "1.36.0"
"""Version that the chart is rendered for."""

Object = dict[str, Any]


class HelmFailed(Exception):
    """Helm refused; the text is its own."""


def _program() -> str:
    """The one that was built; where the cluster is not our own (kind), that in PATH."""
    return str(HELM.path) if HELM.path.exists() else "helm"


def helm(*arguments: str, stdin: str = "") -> str:
    """What it prints. Raises HelmFailed."""
    answer = subprocess.run(
        [_program(), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    if answer.returncode != 0:
        raise HelmFailed(answer.stderr.strip() or answer.stdout.strip())
    return answer.stdout


def template_text(values: Mapping[str, Any], *options: str, chart: Path = CHART) -> str:
    """The rendered chart. Raises HelmFailed."""
    return helm(
        "template", RELEASE, str(chart), "--namespace", NAMESPACE, "--values", "-",
        "--kube-version", KUBERNETES, *options, stdin=yaml.safe_dump(dict(values)),
    )  # fmt: skip


def template(values: Mapping[str, Any] | None = None, *options: str) -> list[Object]:
    """The objects of the rendered chart. Raises HelmFailed."""
    return objects(template_text(values or {}, *options))


def objects(text: str) -> list[Object]:
    """The objects of a YAML stream, empty documents left out."""
    return [found for found in yaml.safe_load_all(text) if found]


def of_kind(found: list[Object], kind: str) -> list[Object]:
    return [item for item in found if item["kind"] == kind]


def one(found: list[Object], kind: str, name: str = "") -> Object:
    """The only object of a kind whose name ends in ``name``."""
    (item,) = (o for o in of_kind(found, kind) if o["metadata"]["name"].endswith(name))
    return item


def workloads(found: list[Object]) -> list[Object]:
    """DaemonSets and Deployments."""
    return [o for o in found if o["kind"] in ("DaemonSet", "Deployment")]


def containers(found: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each container with the pod's spec that it is in."""
    for workload in workloads(found):
        spec = workload["spec"]["template"]["spec"]
        for container in spec["containers"]:
            yield spec, container


def driver_config(found: list[Object]) -> DriverConfig:
    """driver.yaml as the driver reads it. Raises ValidationError."""
    text = one(found, "ConfigMap", "-config")["data"]["driver.yaml"]
    return DriverConfig.model_validate(yaml.safe_load(text))
