"""What one cluster is: its places below the state directory, its addresses and its ports."""

from __future__ import annotations

import json
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

DEFAULT_STATE = Path("/var/tmp/slayerfs-e2e")  # noqa: S108 - root's own, mode 0700
MARKER = "cluster.json"
"""The file that makes a directory a cluster's: it comes first and goes last."""
PARTIAL = "cluster.json.partial"
NODE = "slayerfs-node"
BRIDGE = "slayerfs0"
GATEWAY = "10.213.77.1"
"""The node's address: on the bridge of the pods, so that nothing listens to other machines."""
GATEWAY_PREFIX = 24
POD_NETWORK = "10.213.77.0/24"
SERVICE_NETWORK = "10.213.78.0/24"
SERVICE_ADDRESS = "10.213.78.1"
"""The first one of the network: the service `kubernetes`."""

_LOCAL_PORTS = ("etcd", "etcd-peer", "controller-manager", "scheduler", "proxy", "proxy-metrics",
                "snapshot-controller")  # fmt: skip
_NODE_PORTS = ("apiserver", "kubelet", "kubelet-health", "versitygw", "minio", "minio-console")


@dataclass(frozen=True, slots=True)
class Settings:
    """Written to the state directory by ``up``; ports and passwords are new each time.

    ``ports`` by the name of what listens. ``s3_secret`` is in no argument and no log: services get
    it through their environment or a file of mode 0600.
    """

    root: Path
    ports: dict[str, int]
    s3_access: str
    s3_secret: str

    def __repr__(self) -> str:
        return f"Settings(root={str(self.root)!r})"

    @classmethod
    def fresh(cls, root: Path) -> Self:
        """Ports that are free now. The bridge need not be there."""
        ports = free_ports(_LOCAL_PORTS + _NODE_PORTS)
        return cls(root, ports, "slayerfs", secrets.token_hex(20))

    @classmethod
    def load(cls, root: Path) -> Self:
        """Raises FileNotFoundError: no cluster there."""
        values = json.loads((root / MARKER).read_text())
        return cls(**values | {"root": Path(values["root"])})

    def save(self) -> None:
        """A reader sees all of it or nothing."""
        partial = self.root / PARTIAL
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(self) | {"root": str(self.root)}))
        partial.rename(self.root / MARKER)

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def pids(self) -> Path:
        return self.root / "pids"

    @property
    def pki(self) -> Path:
        return self.root / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components."""
        return self.root / "config"

    @property
    def bin(self) -> Path:
        """Links to the programs by their plain names; first in PATH of every component."""
        return self.root / "bin"

    @property
    def kubelet(self) -> Path:
        """The kubelet's --root-dir. Sockets are below it: the state directory's path is short."""
        return self.root / "kubelet"

    @property
    def containerd_socket(self) -> Path:
        return self.root / "containerd.sock"

    @property
    def apiserver(self) -> str:
        return f"https://{GATEWAY}:{self.ports['apiserver']}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self.kubeconfig_of("admin")

    def kubeconfig_of(self, user: str) -> Path:
        return self.root / ("kubeconfig" if user == "admin" else f"config/{user}.kubeconfig")

    def s3_endpoint(self, server: str) -> str:
        return f"http://{GATEWAY}:{self.ports[server]}"


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """A port each that nobody listens on now, on any address."""
    sockets = [socket.socket() for _ in names]
    try:
        for probe in sockets:
            probe.bind(("", 0))
        return {name: probe.getsockname()[1] for name, probe in zip(names, sockets, strict=True)}
    finally:
        for probe in sockets:
            probe.close()
