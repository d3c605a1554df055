"""What tests and the installation know of a cluster, however it was made: ``env.json``."""

from __future__ import annotations

import configparser
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

REGION = "us-east-1"
AUDIENCE = "sts.slayerfs.io"
"""Of service-account tokens that MinIO's STS accepts."""

DRIVER_IMAGE = "localhost/slayerfs/csi-slayer:e2e"
BUSYBOX_IMAGE = "localhost/busybox:e2e"
PYTHON_IMAGE = "localhost/python:e2e"
SIDECARS = ("csi-provisioner", "csi-resizer", "csi-snapshotter")


@dataclass(frozen=True, slots=True)
class Environment:
    """A cluster that is up.

    ``s3``: endpoints by the name of the server, as pods and this machine reach them. ``images``:
    names of `driver`, `busybox`, `python` (for test pods) and of the sidecars. ``programs``: those
    of kubectl and helm. ``minio_role``: the role that MinIO gives to whoever has a service-account
    token for AUDIENCE. The keys of both servers are in ``credentials``, mode 0600.
    """

    state: Path
    kubeconfig: Path
    node: str
    kubelet_directory: Path
    cache_directory: Path
    programs: dict[str, str]
    s3: dict[str, str]
    credentials: Path
    minio_role: str
    images: dict[str, str]

    @classmethod
    def load(cls, state: Path) -> Self:
        """Raises FileNotFoundError: no cluster is up there."""
        values: dict[str, Any] = json.loads((state / "env.json").read_text())
        paths = ("state", "kubeconfig", "kubelet_directory", "cache_directory", "credentials")
        return cls(**values | {name: Path(values[name]) for name in paths})

    def save(self, access_key: str, secret_key: str) -> None:
        """Into the state directory, the keys apart. A reader sees all of it or nothing."""
        self.credentials.touch(mode=0o600)
        self.credentials.write_text(
            f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        )
        partial = self.state / "env.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n")
        partial.rename(self.state / "env.json")

    def keys(self) -> tuple[str, str]:
        """Access key and secret key of the S3 servers."""
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(self.credentials.read_text())
        section = parser["default"]
        return section["aws_access_key_id"], section["aws_secret_access_key"]
