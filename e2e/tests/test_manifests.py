"""The API server itself takes everything that is shipped: the chart's variants and examples."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.environment import Environment
from e2e.install import CHART, NAMESPACE, PROJECT
from e2e.tests.kubernetes import Kubectl
from e2e.tests.support.driver import Driver

EXAMPLES = sorted((PROJECT / "deploy" / "examples").glob("*.yaml"))
MANIFESTS = PROJECT / "deploy" / "manifests"

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "driver": {
            "store": {"endpoint": "https://s3.example.com", "bucket": "volumes"},
            "cache": {"capacity": "10GiB"},
            "node": {"worker_memory": "1GiB", "topology": {"topology.example.com/zone": "a"}},
        },
        "credentials": {"accessKeyId": "key", "secretAccessKey": "secret"},
        "podIdentity": {"audiences": ["sts.amazonaws.com"]},
        "controller": {"secretNamespaces": ["kube-system"]},
        "node": {"hostNetwork": True},
        "snapshots": {"enabled": True},
        "volumeAttributesClasses": {"e2e-validated": {"metadataTtl": "5m"}},
        "metrics": {
            "podMonitor": {"enabled": True},
            "serviceMonitor": {"enabled": True},
            "alerts": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    },
    "role": {"credentials": {"roleArn": "arn:aws:iam::111122223333:role/slayerfs"}},
    "local": {"driver": {"store": {"local": "/srv/buckets"}}},
}


def refused(kubectl: Kubectl, text: str, namespace: str | None = None) -> str:
    """Let the API server check manifests and change nothing; empty if it takes all.

    ``namespace``: of those that name none.
    """
    documents = [document for document in yaml.safe_load_all(text) if document]
    assert documents
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
    command = ("apply", "--dry-run=server", "--server-side", "--force-conflicts")
    try:
        where = ["--namespace", namespace] if namespace else []
        kubectl(*command, *where, "--filename=-", stdin=stdin)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart(
    variant: str, kubectl: Kubectl, environment: Environment, driver: Driver
) -> None:
    command = [environment.programs["helm"], "template", "slayerfs", str(CHART),
               "--namespace", NAMESPACE, "--kube-version", "1.36.0", "--values", "-"]  # fmt: skip
    done = subprocess.run(
        command, input=json.dumps(VARIANTS[variant]), capture_output=True, text=True, check=False,
        env={"HOME": str(environment.state)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert refused(kubectl, done.stdout) == ""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path, kubectl: Kubectl, driver: Driver) -> None:
    # A pod's account must be there before the pod, and nothing is made here.
    text = path.read_text().replace("serviceAccountName: analyst", "serviceAccountName: default")
    assert refused(kubectl, text, "default") == ""


def test_manifests(kubectl: Kubectl, driver: Driver) -> None:
    text = kubectl("kustomize", str(MANIFESTS))
    (namespace,) = (
        found["metadata"]["name"]
        for found in yaml.safe_load_all(text)
        if found["kind"] == "Namespace"
    )
    # Nothing is made, so that only what is in a namespace that exists can be checked.
    assert refused(kubectl, text.replace(namespace, NAMESPACE), NAMESPACE) == ""
