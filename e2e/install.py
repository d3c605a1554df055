"""The chart on a cluster, as an administrator installs it: namespace, secret, bucket, helm."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

from e2e.environment import REGION, SIDECARS, Environment
from tests.support.s3admin import S3Admin

NAMESPACE = "slayerfs"
RELEASE = "slayerfs"
BUCKET = "volumes"
"""On both servers; on the first one that of volumes whose class names none."""
SECRET = "s3-credentials"
PROJECT = Path(__file__).resolve().parent.parent
CHART = PROJECT / "deploy" / "helm" / "slayerfs"
VALUES = PROJECT / "e2e" / "values.yaml"
_TIMEOUT = 180
"""Seconds until all pods of the driver must be ready."""


def values(environment: Environment, server: str = "versitygw") -> dict[str, Any]:
    """What e2e/values.yaml cannot know: it differs from cluster to cluster."""
    repository, _, tag = environment.images["driver"].rpartition(":")
    sidecars = {}
    for name in SIDECARS:
        image, _, version = environment.images[name].rpartition(":")
        sidecars[name.removeprefix("csi-")] = {"repository": image, "tag": version}
    store = {"endpoint": environment.s3[server], "region": REGION, "bucket": BUCKET}
    return {
        "image": {"repository": repository, "tag": tag},
        "sidecars": sidecars,
        "kubeletDirectory": str(environment.kubelet_directory),
        "cacheDirectory": str(environment.cache_directory),
        "driver": {"store": store},
    }


def objects(environment: Environment) -> list[dict[str, Any]]:
    """The namespace, and the driver's keys in it."""
    keys = dict(zip(("access_key_id", "secret_access_key"), environment.keys(), strict=True))
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": NAMESPACE},
            "data": {name: base64.b64encode(key.encode()).decode() for name, key in keys.items()},
        },
    ]


def admin(environment: Environment, server: str) -> S3Admin:
    """boto3 on a server, with all rights."""
    return S3Admin(environment.s3[server], *environment.keys(), REGION)


def install(environment: Environment, more: dict[str, Any] | None = None) -> None:
    """Install or upgrade, and wait until everything is ready. ``more``: values of the chart that
    count more than those of e2e/values.yaml.

    Raises CalledProcessError, after what kubectl or helm said.
    """
    for server in environment.s3:
        client = admin(environment, server).client
        if BUCKET not in [found["Name"] for found in client.list_buckets().get("Buckets", [])]:
            client.create_bucket(Bucket=BUCKET)
    manifest = {"apiVersion": "v1", "kind": "List", "items": objects(environment)}
    kubeconfig = f"--kubeconfig={environment.kubeconfig}"
    _run(environment, "kubectl", kubeconfig, "apply", "-f",
         str(_private(environment.state / "install.json", manifest)))  # fmt: skip
    _run(
        environment, "helm", kubeconfig, "upgrade", "--install", RELEASE, str(CHART),
        "--namespace", NAMESPACE, "--values", str(VALUES),
        "--values", str(_private(environment.state / "values.json", values(environment))),
        "--values", str(_private(environment.state / "more.json", more or {})),
        # The default way would wait for the keeper (OnDelete), which stays as it is in an
        # upgrade.
        "--wait=legacy", "--timeout", f"{_TIMEOUT}s",
    )  # fmt: skip


def uninstall(environment: Environment) -> str:
    """Uninstall and wait until it is done; returns the manifests of what was installed.

    Raises CalledProcessError, after what helm said.
    """
    release = (f"--kubeconfig={environment.kubeconfig}", f"--namespace={NAMESPACE}", RELEASE)
    installed = _run(environment, "helm", "get", "manifest", *release)
    _run(environment, "helm", "uninstall", "--wait", f"--timeout={_TIMEOUT}s", *release)
    return installed


def _run(environment: Environment, program: str, *arguments: str) -> str:
    return subprocess.run(
        [environment.programs[program], *arguments],
        # Their caches belong to the cluster, too.
        env={"HOME": str(environment.state), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT + 30,
        check=True,
    ).stdout


def _private(path: Path, content: dict[str, Any]) -> Path:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    return path
