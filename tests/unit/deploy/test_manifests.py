"""The rendered manifests, as they are in the tree."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from tests.support.chart import CHART, ROOT
from tests.support.chart_rules import RULES, Rule
from tests.support.helm import Object, of_kind
from tests.support.manifests import MANIFESTS, committed

FOUND = committed()
HELM_ONLY = {"pods_roll_when_the_configuration_changes"}
"""Kustomize does it by the name of the ConfigMap."""


@pytest.mark.parametrize(
    "check",
    [check for check in RULES if check.__name__ not in HELM_ONLY],
    ids=lambda check: check.__name__,
)
def test_rule(check: Rule) -> None:
    check(FOUND)


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["appVersion"] == chart["version"] == project["version"]


def test_each_file_is_used() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *kustomization["configMapGenerator"][0]["files"]}
    files = {path.name for path in MANIFESTS.glob("*.yaml")}
    assert files - used == {"kustomization.yaml", "values.yaml"}
    assert used <= files


def test_everything_is_in_the_namespace_that_allows_it() -> None:
    (namespace,) = of_kind(FOUND, "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    name = namespace["metadata"]["name"]
    assert {item["metadata"].get("namespace", name) for item in FOUND} == {name}


def test_nothing_says_that_helm_manages_it() -> None:
    def labels(item: Object) -> set[str]:
        return set(item["metadata"].get("labels", {}))

    assert not any(
        labels(item) & {"app.kubernetes.io/managed-by", "helm.sh/chart"} for item in FOUND
    )
