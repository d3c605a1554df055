"""The examples say nothing that the driver or the chart does not know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from csi_slayer.config.driver import DRIVER_NAME
from csi_slayer.volumes import mount_options, options
from csi_slayer.volumes.identity import parse_secret
from tests.support.chart import CHART, ROOT, SECRETS
from tests.support.helm import objects

EXAMPLES = ROOT / "deploy" / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in an object."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from parts(child)
    elif isinstance(node, list):
        for child in node:
            yield from parts(child)


def all_objects() -> list[tuple[str, dict[str, Any]]]:
    return [(path.name, found) for path in FILES for found in objects(path.read_text())]


@pytest.mark.parametrize(("file", "found"), all_objects(), ids=lambda value: str(value)[:40])
def test_attributes_are_parameters(file: str, found: dict[str, Any]) -> None:
    for part in parts(found):
        if part.get("driver") == DRIVER_NAME and "volumeAttributes" in part:
            options.parse(part["volumeAttributes"], file)
    if found["kind"] == "StorageClass":
        ours, kubernetes = options.split(found["parameters"])
        options.parse(ours, file)
        kinds = {f"csi.storage.k8s.io/{kind}-{end}" for kind in SECRETS
                 for end in ("name", "namespace")}  # fmt: skip
        assert set(kubernetes) <= kinds
        mount_options.parse(found.get("mountOptions", []))
    if found["kind"] == "VolumeAttributesClass":
        options.parse_mutable(found["parameters"], file)


@pytest.mark.parametrize(("file", "found"), all_objects(), ids=lambda value: str(value)[:40])
def test_names_are_those_of_driver_and_chart(file: str, found: dict[str, Any]) -> None:
    own = {
        item["metadata"]["name"]
        for item in objects((EXAMPLES / file).read_text())
        if item["kind"].endswith("Class")
    }
    for part in parts(found):
        for key in ("driver", "provisioner", "driverName"):
            assert part.get(key, DRIVER_NAME) == DRIVER_NAME
        if "storageClassName" in part:
            assert part["storageClassName"] in {*VALUES["storageClasses"], *own}
        if "volumeSnapshotClassName" in part:
            assert part["volumeSnapshotClassName"] in VALUES["snapshots"]["classes"]
        if "volumeAttributesClassName" in part:
            assert part["volumeAttributesClassName"] in own


def test_secrets_have_the_keys_that_the_driver_reads() -> None:
    secrets = [found for _, found in all_objects() if found["kind"] == "Secret"]
    assert secrets
    for secret in secrets:
        assert parse_secret(secret["stringData"]) is not None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_a_pod_mounts_is_there(path: Path) -> None:
    found = objects(path.read_text())
    claims = {o["metadata"]["name"] for o in found if o["kind"] == "PersistentVolumeClaim"}
    for part in parts(found):
        if "containers" not in part:
            continue
        volumes = {volume["name"]: volume for volume in part.get("volumes", [])}
        templates = {t["metadata"]["name"] for o in found
                     for t in o.get("spec", {}).get("volumeClaimTemplates", [])}  # fmt: skip
        mounted = {m["name"] for c in part["containers"] for m in c.get("volumeMounts", [])}
        assert mounted <= set(volumes) | templates
        for volume in volumes.values():
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in claims


def test_each_example_is_listed() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in FILES if f"({path.name})" not in readme] == []
