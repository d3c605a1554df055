"""How a volume is to be used, in the driver's own terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from csi_slayer.csi.fields import BadRequest
from csi_slayer.csi.proto import csi_pb2
from csi_slayer.errors import ConfigError
from csi_slayer.volumes import mount_options

_Mode = csi_pb2.VolumeCapability.AccessMode

READ_ONLY: Final = frozenset((_Mode.SINGLE_NODE_READER_ONLY, _Mode.MULTI_NODE_READER_ONLY))
"""Modes under which the whole volume is mounted read-only."""

SUPPORTED: Final = READ_ONLY | {
    _Mode.SINGLE_NODE_WRITER,
    _Mode.SINGLE_NODE_SINGLE_WRITER,
    _Mode.SINGLE_NODE_MULTI_WRITER,
    _Mode.MULTI_NODE_SINGLE_WRITER,
    _Mode.MULTI_NODE_MULTI_WRITER,
}

_FILE_SYSTEMS: Final = ("", "slayerfs", "fuse.slayerfs")


@dataclass(frozen=True, slots=True)
class Use:
    """A capability, understood. ``exclusive``: by one pod alone (ReadWriteOncePod)."""

    read_only: bool
    exclusive: bool
    flags: tuple[str, ...]
    mount_group: str


def problem(capability: csi_pb2.VolumeCapability) -> str | None:
    """Why no volume of this driver can be used so, or None."""
    kind = capability.WhichOneof("access_type")
    if kind == "block":
        return (
            "block volumes are not offered: a volume is a file system over S3; use volumeMode:"
            " Filesystem"
        )
    if kind is None:
        return "volume_capability has no access type: expected mount"
    mode = capability.access_mode.mode
    if not capability.HasField("access_mode") or mode == _Mode.UNKNOWN:
        return "volume_capability has no access mode"
    if mode not in SUPPORTED:
        return f"access mode {mode} is not known to CSI v1.12"
    if capability.mount.fs_type not in _FILE_SYSTEMS:
        return (
            "fs_type: a volume has no file system of its own to choose; leave"
            " csi.storage.k8s.io/fstype (or fsType) out"
        )
    try:
        mount_options.parse(capability.mount.mount_flags)
    except ConfigError as error:
        return str(error)
    return None


def use_of(capability: csi_pb2.VolumeCapability) -> Use:
    """Raises BadRequest for what the driver does not offer."""
    wrong = problem(capability)
    if wrong is not None:
        raise BadRequest(wrong)
    mode = capability.access_mode.mode
    return Use(
        read_only=mode in READ_ONLY,
        exclusive=mode == _Mode.SINGLE_NODE_SINGLE_WRITER,
        flags=tuple(capability.mount.mount_flags),
        mount_group=capability.mount.volume_mount_group,
    )


def check_all(capabilities: Iterable[csi_pb2.VolumeCapability]) -> None:
    """Raises BadRequest for the first that the driver does not offer."""
    for capability in capabilities:
        use_of(capability)
