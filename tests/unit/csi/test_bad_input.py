"""Requests that break the specification: its code, and a message that names what to mend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from csi_slayer.csi.proto import csi_pb2
from csi_slayer.csi.redact import is_map
from tests.support.csi import block_capability, mount_capability
from tests.unit.csi.services import PretendedVolumes, with_driver
from tests.unit.csi.serving import Serving

GIB = 1 << 30

# What the specification calls REQUIRED, of the RPCs that the driver offers.
REQUIRED = {
    "CreateVolume": ["name", "volume_capabilities"],
    "DeleteVolume": ["volume_id"],
    "ValidateVolumeCapabilities": ["volume_id", "volume_capabilities"],
    "ControllerGetVolume": ["volume_id"],
    "ControllerModifyVolume": ["volume_id", "mutable_parameters"],
    "ControllerExpandVolume": ["volume_id", "capacity_range"],
    "CreateSnapshot": ["source_volume_id", "name"],
    "DeleteSnapshot": ["snapshot_id"],
    "GetSnapshot": ["snapshot_id"],
    "NodePublishVolume": ["volume_id", "target_path", "volume_capability"],
    "NodeUnpublishVolume": ["volume_id", "target_path"],
    "NodeGetVolumeStats": ["volume_id", "volume_path"],
    "NodeExpandVolume": ["volume_id", "volume_path"],
}

VALUES: dict[str, Any] = {
    "name": "a-name",
    "volume_id": "slayer1:home-bucket:absent",
    "source_volume_id": "slayer1:home-bucket:absent",
    "snapshot_id": "snap1:home-bucket:absent",
    "volume_capability": mount_capability(),
    "volume_capabilities": [mount_capability()],
    "capacity_range": csi_pb2.CapacityRange(required_bytes=GIB),
    "mutable_parameters": {"durability": "close"},
    "target_path": "/nowhere/target",
    "volume_path": "/nowhere/target",
}


def _offered() -> Iterator[tuple[str, Descriptor]]:
    for service in ("Identity", "Controller", "Node"):
        for method in csi_pb2.DESCRIPTOR.services_by_name[service].methods:
            yield method.name, method.input_type


@pytest.mark.parametrize(
    ("method", "missing"), [(method, name) for method in REQUIRED for name in REQUIRED[method]]
)
def test_missing(method: str, missing: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        fields = {name: VALUES[name] for name in REQUIRED[method] if name != missing}
        code, message = await it.refused(method, **fields)
        assert code == "INVALID_ARGUMENT"
        assert message.startswith(f"{missing} is missing")

    with_driver(tmp_path, check)


def _texts(message: Descriptor) -> Iterator[FieldDescriptor]:
    return (field for field in message.fields if field.type == field.TYPE_STRING)


def test_every_text_of_every_request_is_limited(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        tried = 0
        for method, message in _offered():
            for field in _texts(message):
                fields = {name: VALUES[name] for name in REQUIRED.get(method, [])}
                fields[field.name] = "a" * 5000
                code, text = await it.refused(method, **fields)
                if code != "UNIMPLEMENTED":
                    assert code == "INVALID_ARGUMENT" and f"{field.name} has 5000 bytes" in text
                    tried += 1
        assert tried > 15

    with_driver(tmp_path, check)


def test_every_map_of_every_request_is_limited(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        tried = 0
        for method, message in _offered():
            for field in filter(is_map, message.fields):
                fields = {name: VALUES[name] for name in REQUIRED.get(method, [])}
                fields[field.name] = {"key": "a" * 70000}
                code, text = await it.refused(method, **fields)
                if code != "UNIMPLEMENTED":
                    assert code == "INVALID_ARGUMENT" and f"{field.name} has" in text
                    assert "aaa" not in text
                    tried += 1
        assert tried > 15

    with_driver(tmp_path, check)


def _with_id(id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each RPC that takes an id, with this one: method, field, fields."""
    for method, names in REQUIRED.items():
        for name in names:
            if name.endswith("_id"):
                yield method, name, {other: VALUES[other] for other in names} | {name: id}


@pytest.mark.parametrize("id", ["..", "../../etc", "a/../b", "a/.", "a\0b", "a\x1bb"])
def test_ids_that_climb_or_cannot_be_printed(id: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        for method, name, fields in _with_id(id):
            code, text = await it.refused(method, **fields)
            assert code == "INVALID_ARGUMENT" and text.startswith(name)
        assert not volumes.requests

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    "id", ["made-up", "slayer1:home-bucket:../x", "slayer1:home-bucket:a/b", "slayer1:/etc:passwd",
           "slayer1::n", "snap2:home-bucket:n", "slayer1"]
)  # fmt: skip
def test_ids_of_others_are_of_nothing(id: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        for method, _, fields in _with_id(id):
            if method.startswith("Delete"):
                await it.client(method, **fields)
            elif not method.startswith("Node"):
                code, _ = await it.refused(method, **fields)
                assert code == "NOT_FOUND", method
        assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["home-bucket"]

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("capability", "what"),
    [
        (block_capability(), "block volumes are not offered"),
        (csi_pb2.VolumeCapability(), "no access type"),
        (csi_pb2.VolumeCapability(mount={}), "no access mode"),
        (csi_pb2.VolumeCapability(mount={}, access_mode={"mode": "UNKNOWN"}), "no access mode"),
        (csi_pb2.VolumeCapability(mount={}, access_mode={"mode": 99}), "access mode 99"),
        (mount_capability(fs_type="ext4"), "fstype"),
    ],
)
def test_capabilities_that_no_volume_has(
    capability: csi_pb2.VolumeCapability, what: str, tmp_path: Path
) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        for method, fields in (
            ("CreateVolume", {"name": "n", "volume_capabilities": [capability]}),
            (
                "NodePublishVolume",
                {
                    "volume_id": "v",
                    "target_path": f"{volumes.kubelet}/t",
                    "volume_capability": capability,
                },
            ),
        ):
            code, text = await it.refused(method, **fields)
            assert code == "INVALID_ARGUMENT" and what in text
        good = [mount_capability()]
        made = await it.client("CreateVolume", name="n", volume_capabilities=good)
        answer = await it.client(
            "ValidateVolumeCapabilities",
            volume_id=made.volume.volume_id,
            volume_capabilities=[*good, capability],
        )
        assert not answer.HasField("confirmed") and what in answer.message
        capacity = await it.client("GetCapacity", volume_capabilities=[capability])
        assert capacity.available_capacity == 0

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("required", "limit", "code"),
    [(-1, 0, "INVALID_ARGUMENT"), (0, -5, "INVALID_ARGUMENT"), (2, 1, "OUT_OF_RANGE")],
)
def test_capacities_that_cannot_be(required: int, limit: int, code: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        wanted = csi_pb2.CapacityRange(required_bytes=required, limit_bytes=limit)
        fields = {"volume_capabilities": [mount_capability()], "capacity_range": wanted}
        got, text = await it.refused("CreateVolume", name="n", **fields)
        assert got == code and "capacity_range" in text
        got, text = await it.refused(
            "ControllerExpandVolume", volume_id=VALUES["volume_id"], capacity_range=wanted
        )
        assert got == code

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("parameters", "code", "what"),
    [
        ({"bukket": "b"}, "INVALID_ARGUMENT", "bucket"),
        ({"durability": "sometimes"}, "INVALID_ARGUMENT", "durability"),
        ({"bucket": "not-there-at-all"}, "NOT_FOUND", "not-there-at-all"),
        ({"prefix": "../other/"}, "INVALID_ARGUMENT", "prefix"),
    ],
)
def test_parameters(parameters: dict[str, str], code: str, what: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        got, text = await it.refused(
            "CreateVolume",
            name="n",
            volume_capabilities=[mount_capability()],
            parameters=parameters,
        )
        assert got == code and what in text

    with_driver(tmp_path, check)


def test_unknown_secrets_are_refused_and_not_repeated(tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        secrets = {"acces_key_id": "VALUE-NEVER-SHOWN"}
        code, text = await it.refused(
            "CreateVolume",
            name="n",
            volume_capabilities=[mount_capability()],
            secrets=secrets,
        )
        assert code == "INVALID_ARGUMENT" and "access_key_id" in text
        assert "NEVER-SHOWN" not in text and "NEVER-SHOWN" not in repr(it.logs)

    with_driver(tmp_path, check)


@pytest.mark.parametrize("method", ["ListVolumes", "ListSnapshots"])
def test_pages(method: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        code, text = await it.refused(method, max_entries=-1)
        assert code == "INVALID_ARGUMENT" and "max_entries" in text
        code, text = await it.refused(method, starting_token="made-up")
        assert code == "ABORTED" and "token" in text

    with_driver(tmp_path, check)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ({"snapshot": {"snapshot_id": "snap1:home-bucket:absent"}}, "NOT_FOUND"),
        ({"snapshot": {"snapshot_id": "slayer1:home-bucket:a"}}, "NOT_FOUND"),
        ({"snapshot": {"snapshot_id": "made-up"}}, "NOT_FOUND"),
        ({"volume": {"volume_id": "slayer1:home-bucket:absent"}}, "NOT_FOUND"),
        ({"volume": {"volume_id": "snap1:home-bucket:a"}}, "NOT_FOUND"),
        ({"volume": {}}, "INVALID_ARGUMENT"),
        ({"snapshot": {}}, "INVALID_ARGUMENT"),
    ],
)
def test_sources(source: dict[str, Any], code: str, tmp_path: Path) -> None:
    async def check(it: Serving, volumes: PretendedVolumes) -> None:
        got, _ = await it.refused(
            "CreateVolume",
            name="n",
            volume_capabilities=[mount_capability()],
            volume_content_source=source,
        )
        assert got == code

    with_driver(tmp_path, check)
