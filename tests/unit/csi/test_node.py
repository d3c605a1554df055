"""From the kubelet's requests to what the node's volumes are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.csi import emptying, node
from csi_slayer.csi.capabilities import READ_ONLY, SUPPORTED
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.errors import AccessDenied, BucketNotFound, SlayerError, StoreUnavailable
from csi_slayer.node.requests import Pod
from csi_slayer.volumes.provisioner import Provisioner
from tests.support.csi import mount_capability
from tests.unit.csi.services import BUCKET, PretendedVolumes, with_driver
from tests.unit.csi.serving import Serving

GIB = 1 << 30
INLINE = "csi-" + "0123456789abcdef" * 4
POD = {
    "csi.storage.k8s.io/pod.name": "web-0",
    "csi.storage.k8s.io/pod.namespace": "shop",
    "csi.storage.k8s.io/pod.uid": "12-34",
    "csi.storage.k8s.io/serviceAccount.name": "default",
}
STATIC = {"bucket": BUCKET, "prefix": "existing/"}


def publication(volumes: PretendedVolumes, target: str = "t", **fields: Any) -> dict[str, Any]:
    return {
        "volume_id": "a-static-volume",
        "target_path": f"{volumes.kubelet}/{target}",
        "volume_capability": mount_capability(),
        "volume_context": STATIC,
    } | fields


@pytest.mark.parametrize("mode", sorted(SUPPORTED))
def test_access_modes(mode: Any, tmp_path: Path) -> None:
    name = csi_pb2.VolumeCapability.AccessMode.Mode.Name(mode)

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = publication(volumes, volume_capability=mount_capability(name))
        await it.client("NodePublishVolume", **fields)
        [request] = volumes.requests
        assert request.config.volume.read_only == (mode in READ_ONLY)
        assert request.exclusive == (name == "SINGLE_NODE_SINGLE_WRITER")
        assert not request.read_only

    with_driver(tmp_path, check)


def test_read_only_is_of_the_target_alone(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        await it.client("NodePublishVolume", **publication(volumes, readonly=True))
        [request] = volumes.requests
        assert request.read_only and not request.config.volume.read_only

    with_driver(tmp_path, check)


def test_flags_group_and_pod(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        capability = mount_capability(
            mount_flags=["noexec", "durability=writeback"], volume_mount_group="2000"
        )
        await it.client(
            "NodePublishVolume",
            **publication(volumes, volume_capability=capability, volume_context=STATIC | POD),
        )
        [request] = volumes.requests
        assert request.flags == ("noexec",)
        volume = request.config.volume
        assert (volume.durability.value, volume.gid) == ("writeback", 2000)
        assert volume.file_mode & 0o060 == 0o060 and volume.dir_mode & 0o2070 == 0o2070
        assert request.pod == Pod("web-0", "shop", "12-34")

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"volume_context": {"bucket": BUCKET, "prefx": "a/"}}, "prefix"),
        ({"volume_context": {"bucket": BUCKET, "prefix": "../a/"}}, "prefix"),
        ({"volume_context": {}}, "bucket"),
        ({"volume_capability": mount_capability(mount_flags=["durabilty=close"])}, "durability"),
        ({"volume_capability": mount_capability(mount_flags=["suid_dump"])}, "suid_dump"),
        ({"volume_capability": mount_capability(volume_mount_group="staff")}, "group"),
        ({"secrets": {"acess_key_id": "VALUE"}}, "access_key_id"),
        ({"target_path": "/etc"}, "target_path"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        code, text = await it.refused("NodePublishVolume", **publication(volumes, **change))
        assert code == "INVALID_ARGUMENT" and what in text and "VALUE" not in text
        assert not volumes.targets

    with_driver(tmp_path, check)


def test_a_volume_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = publication(volumes, volume_id=f"slayer1:{BUCKET}:absent", volume_context={})
        code, text = await it.refused("NodePublishVolume", **fields)
        assert code == "NOT_FOUND" and "absent" in text

    with_driver(tmp_path, check)


def test_exclusive_volume_has_one_target(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        capability = mount_capability("SINGLE_NODE_SINGLE_WRITER")
        first = publication(volumes, "a", volume_capability=capability)
        second = publication(volumes, "b", volume_capability=capability)
        await it.client("NodePublishVolume", **first)
        await it.client("NodePublishVolume", **first)
        code, text = await it.refused("NodePublishVolume", **second)
        assert code == "FAILED_PRECONDITION" and "unpublish" in text

    with_driver(tmp_path, check)


def test_usage_of_a_volume_with_and_without_a_capacity(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = publication(volumes, volume_context=STATIC | {"capacityBytes": str(GIB)})
        await it.client("NodePublishVolume", **fields)
        at = {"volume_id": "a-static-volume", "volume_path": f"{volumes.kubelet}/t"}
        stats = await it.client("NodeGetVolumeStats", **at)
        size, inodes = stats.usage
        assert (size.used, size.total, size.available) == (4096, GIB, GIB - 4096)
        assert (inodes.unit, inodes.used) == (csi_pb2.VolumeUsage.INODES, 7)
        assert stats.volume_condition.message == "the volume is well"
        volumes.capacities["a-static-volume"] = 1
        [size, _] = (await it.client("NodeGetVolumeStats", **at)).usage
        assert size.available == 0

    with_driver(tmp_path, check)


def test_expansion_without_a_range_tells_the_capacity(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        await it.client("NodePublishVolume", **publication(volumes))
        at = {"volume_id": "a-static-volume", "volume_path": f"{volumes.kubelet}/t"}
        answer = await it.client("NodeExpandVolume", **at, capacity_range={"required_bytes": GIB})
        assert answer.capacity_bytes == GIB
        assert (await it.client("NodeExpandVolume", **at)).capacity_bytes == GIB

    with_driver(tmp_path, check)


def test_info(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        info = await it.client("NodeGetInfo")
        assert (info.node_id, info.max_volumes_per_node) == ("node-1", 40)
        assert dict(info.accessible_topology.segments) == {"topology.kubernetes.io/zone": "a"}
        capabilities = (await it.client("GetPluginCapabilities")).capabilities
        Service = csi_pb2.PluginCapability.Service
        assert Service.VOLUME_ACCESSIBILITY_CONSTRAINTS in [it.service.type for it in capabilities]

    node = {"max_volumes": 40, "topology": {"topology.kubernetes.io/zone": "a"}}
    with_driver(tmp_path, check, node=node)


def test_without_topology_there_are_no_constraints(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        assert not (await it.client("NodeGetInfo")).HasField("accessible_topology")
        kinds = [it.service.type for it in (await it.client("GetPluginCapabilities")).capabilities]
        assert csi_pb2.PluginCapability.Service.VOLUME_ACCESSIBILITY_CONSTRAINTS not in kinds

    with_driver(tmp_path, check)


def _inline(volumes: PretendedVolumes) -> dict[str, Any]:
    context = POD | {"csi.storage.k8s.io/ephemeral": "true"}
    return publication(volumes, volume_id=INLINE, volume_context=context)


def _scratch(directory: Path) -> list[Path]:
    return [path for path in (directory / "store").rglob("*") if path.is_file()]


def test_inline_volumes_content_ends_with_it(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = _inline(volumes)
        await it.client("NodePublishVolume", **fields)
        store = volumes.requests[0].config.store
        assert "/.slayerfs/ephemeral/" in store.url and store.scheme == "file"
        store.directory.mkdir(parents=True, exist_ok=True)
        (store.directory / "file").write_text("content")
        other = tmp_path / "store" / BUCKET / "existing" / "file"
        other.parent.mkdir()
        other.write_text("of somebody else")
        await it.client("NodeUnpublishVolume", volume_id=INLINE, target_path=fields["target_path"])
        assert _scratch(tmp_path) == [other]

    with_driver(tmp_path, check)


@pytest.mark.parametrize("answers", [True, False])
def test_a_pod_does_not_wait_for_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    working: Callable[..., Any] = Provisioner.delete_ephemeral
    away = [True]

    async def failing(self: Provisioner, volume_id: str) -> None:
        if not away[0]:
            await working(self, volume_id)
        elif answers:
            raise StoreUnavailable("S3 does not answer")
        else:
            await asyncio.Event().wait()

    monkeypatch.setattr(Provisioner, "delete_ephemeral", failing)
    monkeypatch.setattr(emptying, "AT_ONCE", 0.05)

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = _inline(volumes)
        await it.client("NodePublishVolume", **fields)
        end = {"volume_id": INLINE, "target_path": fields["target_path"]}
        await it.client("NodeUnpublishVolume", **end)
        assert volumes.warned == [(INLINE, "ContentStays")]
        assert [path.name for path in (tmp_path / "emptying").iterdir()] == [INLINE]
        # Until then its content would come back to whoever has it next.
        code, _text = await it.refused("NodePublishVolume", **fields)
        assert code == ("UNAVAILABLE" if answers else "ABORTED")
        away[0] = False
        monkeypatch.setattr(emptying, "AT_ONCE", 30.0)
        await it.client("NodePublishVolume", **fields)
        assert list((tmp_path / "emptying").iterdir()) == []
        await it.client("NodeUnpublishVolume", **end)

    with_driver(tmp_path, check)


def test_inline_content_is_deleted_after_the_process_that_should_have_was_killed(
    tmp_path: Path,
) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = _inline(volumes)
        await it.client("NodePublishVolume", **fields)
        store = volumes.requests[0].config.store
        store.directory.mkdir(parents=True, exist_ok=True)
        (store.directory / "file").write_text("content")
        del volumes.targets[fields["target_path"]]  # all that was done in time
        await it.client("NodeUnpublishVolume", volume_id=INLINE, target_path=fields["target_path"])
        assert _scratch(tmp_path) == []

    with_driver(tmp_path, check)


@pytest.mark.parametrize("error", [AccessDenied("no"), BucketNotFound("gone")])
def test_a_closed_bucket_of_the_driver_s_keeps_no_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: SlayerError
) -> None:
    async def refused(self: Provisioner, volume_id: str) -> None:
        raise error

    monkeypatch.setattr(Provisioner, "delete_ephemeral", refused)

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = _inline(volumes)
        await it.client("NodePublishVolume", **fields)
        await it.client("NodeUnpublishVolume", volume_id=INLINE, target_path=fields["target_path"])

    with_driver(tmp_path, check)


def test_content_of_other_volumes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: Provisioner, volume_id: str) -> None:
        raise AssertionError(volume_id)

    monkeypatch.setattr(Provisioner, "delete_ephemeral", never)

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = publication(volumes)
        await it.client("NodePublishVolume", **fields)
        await it.client(
            "NodeUnpublishVolume",
            volume_id=fields["volume_id"],
            target_path=fields["target_path"],
        )

    with_driver(tmp_path, check)


def test_a_running_pod_is_not_told_that_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("S3 does not answer")

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        await it.client("NodePublishVolume", **publication(volumes))
        monkeypatch.setattr(node, "resolve", away)
        await it.client("NodePublishVolume", **publication(volumes))
        code, _text = await it.refused("NodePublishVolume", **publication(volumes, target="new"))
        assert code == "UNAVAILABLE"
        assert len(volumes.requests) == 1

    with_driver(tmp_path, check)
