"""Controller and node services in this process: over a local store, with mounts only pretended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric

from csi_slayer.config.driver import DriverConfig
from csi_slayer.csi.controller import Controller
from csi_slayer.csi.emptying import Emptying
from csi_slayer.csi.identity import Identity, Probe
from csi_slayer.csi.node import Node
from csi_slayer.errors import ConfigError, VolumeConflict, VolumeInUse, VolumeNotFound
from csi_slayer.node.records import Record
from csi_slayer.node.requests import Condition, PublishRequest, VolumeStats
from csi_slayer.volumes.provisioner import Provisioner
from csi_slayer.volumes.stores import StorePool
from tests.unit.csi.serving import Serving, serve

BUCKET = "home-bucket"


@dataclass
class PretendedVolumes:
    """What :class:`csi_slayer.node.service.NodeVolumes` promises, without a mount."""

    kubelet: Path
    targets: dict[str, PublishRequest] = field(default_factory=dict)
    requests: list[PublishRequest] = field(default_factory=list)
    capacities: dict[str, int] = field(default_factory=dict)
    warned: list[tuple[str, str]] = field(default_factory=list)

    async def publish(self, request: PublishRequest) -> None:
        self._check(request.target)
        self.requests.append(request)
        found = self.targets.get(request.target)
        if found is not None and (
            found.volume_id != request.volume_id
            or found.read_only != request.read_only
            or found.exclusive != request.exclusive
        ):
            raise VolumeConflict("published there already, as something else: unpublish it first")
        others = [it for it in self._of(request.volume_id) if it.target != request.target]
        if others and (request.exclusive or any(it.exclusive for it in others)):
            raise VolumeInUse("used by another pod: unpublish it there first")
        self.targets[request.target] = request

    async def unpublish(self, volume_id: str, target: str) -> list[str]:
        self._check(target)
        found = self.targets.get(target)
        if found is None or found.volume_id != volume_id:
            return []
        del self.targets[target]
        if self.published(volume_id):
            return []
        self.capacities.pop(volume_id, None)
        return [volume_id]

    async def stats(self, volume_id: str, path: str) -> VolumeStats:
        found = self._at(volume_id, path)
        capacity = self.capacities.get(volume_id, found.config.volume.quota or 0)
        return VolumeStats(4096, capacity or None, 7, Condition(False, "the volume is well"))

    async def expand(self, volume_id: str, path: str, capacity: int) -> None:
        self._at(volume_id, path)
        self.capacities[volume_id] = capacity

    async def probe(self) -> None:
        pass

    def has(self, volume_id: str) -> bool:
        return self.published(volume_id)

    async def shows(self, volume_id: str, target: str) -> bool:
        return any(it.target == target for it in self._of(volume_id))

    def record(self, volume_id: str) -> Record | None:
        found = self._of(volume_id)
        return Record("0" * 16, volume_id, found[0].identity, {}) if found else None

    def warn(self, record: Record, reason: str, message: str) -> None:
        self.warned.append((record.volume_id, reason))

    def published(self, volume_id: str) -> bool:
        return any(self._of(volume_id))

    def collect(self) -> Iterator[Metric]:
        return iter(())

    def _of(self, volume_id: str) -> list[PublishRequest]:
        return [it for it in self.targets.values() if it.volume_id == volume_id]

    def _at(self, volume_id: str, path: str) -> PublishRequest:
        found = self.targets.get(path)
        if found is None or found.volume_id != volume_id:
            raise VolumeNotFound("the volume is not published there")
        return found

    def _check(self, target: str) -> None:
        if not target.startswith(f"{self.kubelet}/"):
            raise ConfigError("target_path: outside the kubelet's directory")


def configuration(directory: Path, **sections: dict[str, Any]) -> DriverConfig:
    """A driver whose buckets are directories; the default one exists."""
    (directory / "store" / BUCKET).mkdir(parents=True, exist_ok=True)
    values: dict[str, dict[str, Any]] = {
        "store": {"local": directory / "store", "bucket": BUCKET},
        "node": {
            "name": "node-1",
            "kubelet_directory": directory / "kubelet",
            "run_directory": directory / "run",
        },
        "cache": {"directory": directory / "cache", "capacity": "1GiB"},
    }
    for name, given in sections.items():
        values[name] = values.get(name, {}) | given
    # Sockets are at paths that the test chooses; pytest's directories are too long for others.
    values["node"]["run_directory"] = Path("/run/slayerfs-test")
    return DriverConfig.model_validate(values)


def with_driver(
    directory: Path,
    check: Callable[[Serving, PretendedVolumes], Awaitable[None]],
    **sections: dict[str, Any],
) -> None:
    """Run ``check`` with a client of all three services."""
    config = configuration(directory, **sections)
    volumes = PretendedVolumes(directory / "kubelet")

    async def run(it: Serving) -> None:
        try:
            await check(it, volumes)
        finally:
            await provisioner.close()
            await stores.close()

    provisioner = Provisioner(config)
    stores = StorePool()
    # Not started: what is not done at once stays undone here.
    emptying = Emptying(directory / "emptying", provisioner.delete_ephemeral, volumes.has)
    services = {
        "Identity": Identity(config, Probe(provisioner.probe)),
        "Controller": Controller(provisioner),
        "Node": Node(config, volumes, emptying, stores),  # type: ignore[arg-type]
    }
    serve(directory, services, run)
