"""The configuration of the driver's processes in a cluster: node, controller and keeper.

One file for all of them: what a volume does not say itself comes from here.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from csi_slayer.config.base import Section
from csi_slayer.config.node import (
    CacheConfig,
    FuseConfig,
    LogConfig,
    MetricsConfig,
    TracingConfig,
)
from csi_slayer.config.store import Connection
from csi_slayer.config.units import Duration, Size

DRIVER_NAME = "csi.slayerfs.io"
"""As in the CSIDriver object, in each PersistentVolume and in the plugin's directory."""

_KUBELET = Path("/var/lib/kubelet")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
LONGEST_SOCKET_PATH = 107
"""Bytes of ``sun_path`` (unix(7)) without the final zero."""


class DriverStore(Connection):
    """S3 for volumes that name no service or identity of their own."""

    bucket: str | None = Field(
        default=None, description="bucket of volumes whose class names none, and of ListVolumes"
    )
    local: Path | None = Field(
        default=None,
        description="directory whose subdirectories are the buckets, instead of an S3 service;"
        " for trying out on one node",
    )
    secret_directory: Path | None = Field(
        default=None,
        description="directory with the files access_key_id, secret_access_key and, if there is"
        " one, session_token (a mounted Kubernetes Secret); read again when they change",
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.secret_directory is not None and self.access_key_id is not None:
            raise ValueError("secret_directory excludes access_key_id and secret_access_key")
        if self.local is not None and self.endpoint is not None:
            raise ValueError("local excludes endpoint")
        if self.local is not None and not self.local.is_absolute():
            raise ValueError("local: expected an absolute path")
        return self


class NodeConfig(Section):
    """The node service."""

    name: str = Field(
        default_factory=lambda: os.environ.get("NODE_NAME") or socket.gethostname(),
        min_length=1,
        max_length=253,
        description="the node's name in the cluster",
        json_schema_extra={"default_text": "environment variable NODE_NAME, else the host name"},
    )
    kubelet_directory: Path = Field(
        default=_KUBELET, description="the kubelet's --root-dir; targets outside it are refused"
    )
    run_directory: Path = Field(
        default=_KUBELET / "plugins" / DRIVER_NAME,
        description="sockets, records and private mount points; mount propagation from it must be"
        " Bidirectional",
    )
    register_with_kubelet: bool = Field(
        default=True, description="serve the registration socket in plugins_registry"
    )
    keeper: Path | None = Field(
        default=None,
        description="socket of the keeper; none: keeper.sock in the run_directory. Where no keeper"
        " answers, mounts survive their workers but not the node service",
    )
    topology: dict[str, str] = Field(
        default_factory=dict, description="topology segments of the node, such as its zone"
    )
    max_volumes: int = Field(
        default=0, ge=0, description="most volumes on the node; 0: no limit told to the scheduler"
    )
    start_timeout: Duration = Field(
        default=60.0, gt=0, description="how long a volume may take to be mounted"
    )
    flush_timeout: Duration = Field(
        default=20.0,
        gt=0,
        le=100,
        description="how long unpublishing waits for uploads; what is left then is uploaded in the"
        " background, from the cache directory, even after a restart",
    )
    worker_memory: Size | None = Field(
        default=None, ge=64 * 2**20, description="memory limit of each worker, by cgroup"
    )
    worker_cpus: float | None = Field(
        default=None, gt=0, description="processors that each worker may use, by cgroup"
    )
    events: bool = Field(
        default=True, description="post Kubernetes events about volumes that need attention"
    )

    @field_validator("kubelet_directory", "run_directory", "keeper")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("expected an absolute path")
        return value

    @field_validator("topology")
    @classmethod
    def _label_values(cls, value: dict[str, str]) -> dict[str, str]:
        for key, text in value.items():
            if not _LABEL.fullmatch(key.rpartition("/")[2]) or not _LABEL.fullmatch(text):
                raise ValueError("expected label names and values as Kubernetes has them")
        return value

    @property
    def socket(self) -> Path:
        """Where the node's CSI services are served."""
        return self.run_directory / "csi.sock"

    @property
    def keeper_socket(self) -> Path:
        return self.keeper or self.run_directory / "keeper.sock"

    @property
    def registration_directory(self) -> Path:
        """Where the kubelet looks for drivers."""
        return self.kubelet_directory / "plugins_registry"


class ControllerConfig(Section):
    """The controller service."""

    socket: Path = Field(
        default=Path("/run/csi/csi.sock"), description="where the CSI services are served"
    )
    parallel: int = Field(
        default=16, ge=1, le=256, description="requests at a time of one copy or deletion"
    )
    wait: Duration = Field(
        default=20.0,
        gt=0,
        description="how long a call waits for a copy or deletion under way before it answers"
        " that it goes on; the sidecars ask again",
    )
    claim_prefix: str = Field(
        default="",
        max_length=200,
        description="prefix in shared buckets below which new volumes are put",
    )


class DriverConfig(Section):
    """What ``csi-slayer node`` and ``csi-slayer controller`` are told."""

    store: DriverStore = Field(default_factory=DriverStore)
    volumes: dict[str, str] = Field(
        default_factory=dict,
        description="volume parameters that apply where a volume does not give them",
    )
    cache: CacheConfig = Field(default_factory=CacheConfig)
    fuse: FuseConfig = Field(default_factory=FuseConfig)
    node: NodeConfig = Field(default_factory=NodeConfig)
    controller: ControllerConfig = Field(default_factory=ControllerConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)

    @property
    def own_directories(self) -> tuple[Path, ...]:
        """What the node service needs, and no volume may be mounted over."""
        node = self.node
        return node.run_directory, node.registration_directory, self.cache.directory

    @model_validator(mode="after")
    def _short_paths(self) -> Self:
        # Worker control sockets are <run_directory>/run/<16 digits>.sock.
        paths = (self.node.run_directory / "run" / ("0" * 16 + ".sock"), self.controller.socket)
        if any(len(os.fsencode(path)) > LONGEST_SOCKET_PATH for path in paths):
            raise ValueError("a directory of sockets has too long a path: at most 80 bytes")
        return self
