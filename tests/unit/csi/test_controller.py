"""What the sidecars are answered; the semantics of volumes are tested with ``volumes``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from csi_slayer import __version__
from csi_slayer.config.driver import DRIVER_NAME
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.volumes.rounds import Rounds
from tests.support.csi import mount_capability
from tests.unit.csi.services import BUCKET, PretendedVolumes, with_driver
from tests.unit.csi.serving import Serving

GIB = 1 << 30
EXTRA = {
    "csi.storage.k8s.io/pvc/name": "data-web-0",
    "csi.storage.k8s.io/pvc/namespace": "shop",
    "csi.storage.k8s.io/pv/name": "pvc-1234",
}
NEW = {"name": "pvc-1234", "volume_capabilities": [mount_capability()]}


def test_identity(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        info = await it.client("GetPluginInfo")
        assert (info.name, info.vendor_version) == (DRIVER_NAME, __version__)
        assert (await it.client("Probe")).ready.value
        capabilities = (await it.client("GetPluginCapabilities")).capabilities
        Expansion = csi_pb2.PluginCapability.VolumeExpansion
        assert Expansion.ONLINE in [kind.volume_expansion.type for kind in capabilities]

    with_driver(tmp_path, check)


def test_probe_says_what_is_missing(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        code, text = await it.refused("Probe")
        assert code == "FAILED_PRECONDITION" and "another-bucket" in text

    with_driver(tmp_path, check, store={"bucket": "another-bucket"})


def test_context_carries_parameters_place_and_claim(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        parameters = {"durability": "fsync", "attributes": "posix"}
        answer = await it.client(
            "CreateVolume",
            **NEW,
            parameters=parameters | EXTRA,
            mutable_parameters={"prefetch": "false"},
            capacity_range={"required_bytes": GIB},
        )
        context = dict(answer.volume.volume_context)
        assert EXTRA.items() <= context.items()
        assert context["bucket"] == BUCKET and context["prefix"].endswith("pvc-1234/")
        assert context["attributes"] == "posix" and context["capacityBytes"] == str(GIB)
        assert "prefetch" not in context
        again = await it.client("ControllerGetVolume", volume_id=answer.volume.volume_id)
        assert again.volume == answer.volume
        assert not again.status.volume_condition.abnormal
        assert again.status.volume_condition.message

        await it.client(
            "NodePublishVolume",
            volume_id=answer.volume.volume_id,
            target_path=f"{volumes.kubelet}/t",
            volume_capability=mount_capability(),
            volume_context=context,
        )
        [request] = volumes.requests
        assert request.labels["claim"] == "data-web-0" and request.labels["namespace"] == "shop"
        assert request.config.volume.quota == GIB
        assert request.config.volume.attributes == "posix"
        assert not request.config.volume.prefetch

    with_driver(tmp_path, check)


def test_wrong_mount_options_are_refused_before_a_volume_is_made(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        capability = mount_capability(mount_flags=["noexecute"])
        code, text = await it.refused("CreateVolume", name="n", volume_capabilities=[capability])
        assert code == "INVALID_ARGUMENT" and "noexec" in text
        assert not (await it.client("ListVolumes")).entries

    with_driver(tmp_path, check)


def test_validation_confirms_what_it_was_asked(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        made = await it.client(
            "CreateVolume",
            **NEW,
            parameters={"durability": "fsync", "uid": "5"} | EXTRA,
            mutable_parameters={"prefetch": "true"},
            capacity_range={"required_bytes": GIB},
        )
        made = made.volume
        await it.client(
            "ControllerExpandVolume",
            volume_id=made.volume_id,
            capacity_range={"required_bytes": 2 * GIB},
        )
        modes = ("SINGLE_NODE_SINGLE_WRITER", "MULTI_NODE_READER_ONLY")
        asked = [mount_capability(mode) for mode in modes]
        answer = await it.client(
            "ValidateVolumeCapabilities",
            volume_id=made.volume_id,
            volume_capabilities=asked,
            volume_context=dict(made.volume_context)
            | {"storage.kubernetes.io/csiProvisionerIdentity": "1-csi.slayerfs.io"},
            parameters={"durability": "close", "uid": "5"} | EXTRA,
            mutable_parameters={"prefetch": "true"},
        )
        confirmed = answer.confirmed
        assert list(confirmed.volume_capabilities) == asked
        assert made.volume_context.items() <= confirmed.volume_context.items()
        assert confirmed.parameters == {"durability": "close", "uid": "5"} | EXTRA
        assert confirmed.mutable_parameters == {"prefetch": "true"}

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("field", "changes", "said"),
    [
        ("volume_context", {"bucket": "other"}, "volume_context: bucket: not as"),
        ("volume_context", {"bukket": "other"}, "did you mean bucket"),
        ("volume_context", {"uid": "6"}, "volume_context: uid: not as"),
        ("parameters", {"bukket": "x"}, "did you mean bucket"),
        ("parameters", {"uid": "6"}, "parameters: uid: not as"),
        ("parameters", {"gid": "6"}, "parameters: gid, uid: not as"),
        ("mutable_parameters", {"uid": "5"}, "fixed when the volume is made"),
        ("mutable_parameters", {"prefetch": "maybe"}, "expected true or false"),
        ("mutable_parameters", {"prefetch": "false"}, "prefetch: not as"),
        ("mutable_parameters", {"durability": "close"}, "durability: not as"),
    ],
)
def test_validation_confirms_nothing_that_is_not_so(
    field: str, changes: dict[str, str], said: str, tmp_path: Path
) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        made = await it.client(
            "CreateVolume",
            **NEW,
            parameters={"uid": "5"},
            mutable_parameters={"prefetch": "true"},
        )
        given = dict(made.volume.volume_context) if field == "volume_context" else {}
        answer = await it.client(
            "ValidateVolumeCapabilities",
            volume_id=made.volume.volume_id,
            volume_capabilities=[mount_capability()],
            **{field: given | changes},
        )
        assert not answer.HasField("confirmed")
        assert said in answer.message

    with_driver(tmp_path, check)


@pytest.mark.parametrize("kind", ["snapshot", "volume"])
def test_source_is_answered_and_listed(kind: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        origin = (await it.client("CreateVolume", **NEW)).volume
        snapshot = (
            await it.client("CreateSnapshot", name="s", source_volume_id=origin.volume_id)
        ).snapshot
        assert snapshot.ready_to_use and snapshot.creation_time.seconds > 0
        ids = {"snapshot": snapshot.snapshot_id, "volume": origin.volume_id}
        source = csi_pb2.VolumeContentSource(**{kind: {f"{kind}_id": ids[kind]}})
        made = await it.client(
            "CreateVolume",
            name="copy",
            volume_capabilities=[mount_capability()],
            volume_content_source=source,
        )
        assert made.volume.content_source == source
        listed = {e.volume.volume_id: e.volume for e in (await it.client("ListVolumes")).entries}
        assert listed[made.volume.volume_id].content_source == source
        found = await it.client("ListSnapshots", source_volume_id=origin.volume_id)
        assert [entry.snapshot for entry in found.entries] == [snapshot]
        got = await it.client("GetSnapshot", snapshot_id=snapshot.snapshot_id)
        assert got.snapshot == snapshot

    with_driver(tmp_path, check)


def test_each_listed_volume_has_a_condition(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        await it.client("CreateVolume", **NEW)
        [entry] = (await it.client("ListVolumes")).entries
        assert entry.status.volume_condition.message == "the volume is there"

    with_driver(tmp_path, check)


def test_expansion_is_to_be_told_to_the_nodes(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        id = (await it.client("CreateVolume", **NEW)).volume.volume_id
        answer = await it.client(
            "ControllerExpandVolume", volume_id=id, capacity_range={"required_bytes": GIB}
        )
        assert answer.capacity_bytes == GIB and answer.node_expansion_required
        code, text = await it.refused("ControllerExpandVolume", volume_id=id, capacity_range={})
        assert code == "INVALID_ARGUMENT" and "bytes" in text

    with_driver(tmp_path, check)


def test_a_snapshot_that_is_not_cut_is_neither_answered_nor_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    real = Rounds.run

    async def held(self: Rounds) -> tuple[int, int]:
        await gate.wait()
        return await real(self)

    monkeypatch.setattr(Rounds, "run", held)

    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        origin = (await it.client("CreateVolume", **NEW)).volume
        fields = {"name": "s", "source_volume_id": origin.volume_id}
        code, text = await it.refused("CreateSnapshot", **fields)
        assert code == "ABORTED" and "is being made: 0 objects so far" in text
        assert not (await it.client("ListSnapshots")).entries
        gate.set()
        answer = await it.client("CreateSnapshot", **fields)
        assert answer.snapshot.ready_to_use
        assert len((await it.client("ListSnapshots")).entries) == 1

    with_driver(tmp_path, check, controller={"wait": "2s"})
