"""A kind cluster with S3 servers beside it, and what the tests must know of it.

Needs docker, kind, kubectl and helm in PATH, and images from public registries.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from e2e.environment import (
    AUDIENCE,
    BUSYBOX_IMAGE,
    DRIVER_IMAGE,
    PYTHON_IMAGE,
    SIDECARS,
    Environment,
)
from e2e.install import PROJECT
from e2e.roles import DISCOVERY_BY_ANYBODY, minio_role
from tests.support import binaries

NAME = "slayerfs-e2e"
NODE = f"{NAME}-control-plane"
NETWORK = "kind"
CONFIG = Path(__file__).resolve().parent / "cluster.yaml"
VERSITYGW = f"versity/versitygw:{binaries.VERSITYGW.version}"
MINIO = "minio/minio:latest"
BUSYBOX = "busybox:1"
SNAPSHOTS = "https://github.com/kubernetes-csi/external-snapshotter"
MONITORING = "https://github.com/prometheus-operator/prometheus-operator/raw"

_TIMEOUT = 900

Run = Callable[..., str]


def run(*command: str, stdin: str | None = None, environment: dict[str, str] | None = None) -> str:
    """What a command printed. Raises CalledProcessError, after what it said of its failure."""
    return subprocess.run(
        command,
        input=stdin,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    ).stdout


def sidecar_images() -> dict[str, str]:
    """The official ones, of the versions that e2e/cluster builds."""
    versions = {program.name: program.version for program in binaries.CLUSTER_PROGRAMS}
    return {name: f"registry.k8s.io/sig-storage/{name}:{versions[name]}" for name in SIDECARS}


def up(state: Path, run: Run = run) -> None:
    """A fresh cluster; ``env.json`` in the state directory when it is ready."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    kubeconfig = state / "kubeconfig"
    build_images(run)
    run("kind", "create", "cluster", f"--name={NAME}", f"--config={CONFIG}",
        f"--kubeconfig={kubeconfig}", "--wait=120s")  # fmt: skip
    run("kind", "load", "docker-image", f"--name={NAME}", DRIVER_IMAGE, BUSYBOX_IMAGE, PYTHON_IMAGE)
    version = binaries.SNAPSHOT_CONTROLLER.version
    for directory in ("client/config/crd", "deploy/kubernetes/snapshot-controller"):
        run("kubectl", f"--kubeconfig={kubeconfig}", "apply", "-k",
            f"{SNAPSHOTS}/{directory}?ref={version}")  # fmt: skip
    version = binaries.PROMETHEUS_CRDS.version
    for pattern in binaries.PROMETHEUS_CRDS.patterns:
        file = pattern.replace("*", "monitoring.coreos.com")
        run("kubectl", f"--kubeconfig={kubeconfig}", "apply", "--server-side",
            f"--filename={MONITORING}/{version}/{file}")  # fmt: skip
    run("kubectl", f"--kubeconfig={kubeconfig}", "apply", "-f", "-",
        stdin=json.dumps(DISCOVERY_BY_ANYBODY))  # fmt: skip
    keys = ("slayerfs", secrets.token_hex(20))
    s3 = start_s3(state, keys, run)
    environment = Environment(
        state=state,
        kubeconfig=kubeconfig,
        node=NODE,
        kubelet_directory=Path("/var/lib/kubelet"),
        cache_directory=Path("/var/cache/slayerfs"),
        programs={name: shutil.which(name) or name for name in ("kubectl", "helm")},
        s3=s3,
        credentials=state / "s3-credentials",
        minio_role=minio_role(lambda: run("docker", "logs", f"{NAME}-minio")),
        images=sidecar_images()
        | {"driver": DRIVER_IMAGE, "busybox": BUSYBOX_IMAGE, "python": PYTHON_IMAGE},
    )
    environment.save(*keys)


def build_images(run: Run) -> None:
    """The driver by the Dockerfile; for test pods, the stage that it is built on, and busybox."""
    run("docker", "build", f"--tag={DRIVER_IMAGE}", str(PROJECT))
    run("docker", "build", "--target=base", f"--tag={PYTHON_IMAGE}", str(PROJECT))
    run("docker", "pull", BUSYBOX)
    run("docker", "tag", BUSYBOX, BUSYBOX_IMAGE)


def start_s3(state: Path, keys: tuple[str, str], run: Run) -> dict[str, str]:
    """Both servers in containers on kind's network, by their addresses there."""
    certificates = state / "minio-certs"
    (certificates / "CAs").mkdir(parents=True, exist_ok=True)
    config = json.loads(
        run("kubectl", f"--kubeconfig={state / 'kubeconfig'}", "config", "view", "--raw", "-ojson")
    )
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    (certificates / "CAs" / "cluster.crt").write_bytes(base64.b64decode(authority))
    # Names without a value: docker takes the values from its environment, not from its arguments.
    servers: dict[str, tuple[int, dict[str, str], list[str], list[str]]] = {
        "versitygw": (
            7070,
            {"ROOT_ACCESS_KEY": keys[0], "ROOT_SECRET_KEY": keys[1]},
            ["--volume=/data", "--volume=/accounts"],
            [
                VERSITYGW,
                "--port=:7070",
                "--iam-dir=/accounts",
                "--iam-cache-disable",
                "posix",
                "--sidecar=/tmp",
                "/data",
            ],
        ),
        "minio": (
            9000,
            {
                "MINIO_ROOT_USER": keys[0],
                "MINIO_ROOT_PASSWORD": keys[1],
                "MINIO_IDENTITY_OPENID_CONFIG_URL": (
                    f"https://{NODE}:6443/.well-known/openid-configuration"
                ),
                "MINIO_IDENTITY_OPENID_CLIENT_ID": AUDIENCE,
                "MINIO_IDENTITY_OPENID_ROLE_POLICY": "readwrite",
            },
            [f"--volume={certificates}:/certs:ro"],
            [MINIO, "server", "--certs-dir=/certs", "/data"],
        ),
    }
    endpoints = {}
    for name, (port, variables, options, command) in servers.items():
        passed = [f"--env={variable}" for variable in variables]
        run("docker", "run", "--detach", f"--name={NAME}-{name}", f"--network={NETWORK}",
            *passed, *options, *command, environment=variables)  # fmt: skip
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = run("docker", "inspect", f"--format={template}", f"{NAME}-{name}").strip()
        endpoints[name] = f"http://{address}:{port}"
    return endpoints


def down(state: Path, keep_logs: Path | None = None, run: Run = run) -> None:
    """Remove all of it; no error for what is not there."""
    if keep_logs is not None:
        with contextlib.suppress(subprocess.SubprocessError):  # there may be no cluster yet
            run("kind", "export", "logs", f"--name={NAME}", str(keep_logs))
    run("docker", "rm", "--force", "--volumes", f"{NAME}-versitygw", f"{NAME}-minio")
    run("kind", "delete", "cluster", f"--name={NAME}", f"--kubeconfig={state / 'kubeconfig'}")
    shutil.rmtree(state, ignore_errors=True)
