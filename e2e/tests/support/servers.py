"""What differs between our own cluster and kind: stopping S3, loading an image."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from e2e.cluster import loading, rootfs
from e2e.cluster.cluster import Cluster
from e2e.cluster.processes import ClusterError
from e2e.environment import Environment
from e2e.install import PROJECT
from e2e.kind import cluster as kind

NEXT_IMAGE = "localhost/slayerfs/csi-slayer:e2e-next"
_CHANGE = {"SLAYERFS_E2E_BUILD": "next"}
"""Makes another image of the same code: its digest differs."""


def _own(environment: Environment) -> Cluster | None:
    """None: it is kind's."""
    try:
        return Cluster.load(environment.state)
    except ClusterError:
        return None


@contextmanager
def stopped(environment: Environment, server: str = "versitygw") -> Iterator[None]:
    """An S3 server does not run inside the block; what it has stored stays."""
    cluster, container = _own(environment), f"{kind.NAME}-{server}"
    if cluster is not None:
        cluster.stop(server)
    else:
        _docker("stop", container)
    try:
        yield
    finally:
        if cluster is not None:
            cluster.start(server)
        else:
            _docker("start", container)


def load_next_image(environment: Environment) -> str:
    """The driver's image once more, changed and under another tag; returns its name."""
    cluster = _own(environment)
    if cluster is None:
        labels = [f"--label={name}={value}" for name, value in _CHANGE.items()]
        _docker("build", *labels, f"--tag={NEXT_IMAGE}", str(PROJECT))
        subprocess.run(
            ["kind", "load", "docker-image", f"--name={kind.NAME}", NEXT_IMAGE], check=True
        )
        return NEXT_IMAGE
    with tempfile.TemporaryDirectory(dir=environment.state) as directory:
        image = loading.driver_image(rootfs.build(Path(directory) / "project.tar"), NEXT_IMAGE)
        changed = replace(image, environment={**image.environment, **_CHANGE})
        loading.load(cluster.settings, [changed])
    return NEXT_IMAGE


def _docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, stdout=subprocess.DEVNULL)
