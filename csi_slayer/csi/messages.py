"""From records of volumes and snapshots to CSI's messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from csi_slayer.csi.proto import csi_pb2
from csi_slayer.volumes.capacity import check_range
from csi_slayer.volumes.context import LABELS, volume_context
from csi_slayer.volumes.ids import ObjectId
from csi_slayer.volumes.records import SnapshotRecord, State, VolumeRecord

SNAPSHOT_KEYS: Final = frozenset(
    (
        "csi.storage.k8s.io/volumesnapshot/name",
        "csi.storage.k8s.io/volumesnapshot/namespace",
        "csi.storage.k8s.io/volumesnapshotcontent/name",
    )
)
"""What the snapshotter adds to the parameters, if it is told to; nothing here needs them."""


_LABEL_OF: Final = {key: label for label, key in LABELS.items()}


def split_labels(parameters: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Parameters of the class, and labels from what the provisioner added."""
    labels = {_LABEL_OF[key]: value for key, value in parameters.items() if key in _LABEL_OF}
    return {key: value for key, value in parameters.items() if key not in _LABEL_OF}, labels


def capacity_of(wanted: csi_pb2.CapacityRange) -> tuple[int, int]:
    """Required bytes and limit, 0 for an open end. Raises ConfigError, CapacityOutOfRange."""
    check_range(wanted.required_bytes, wanted.limit_bytes)
    return wanted.required_bytes, wanted.limit_bytes


def volume_message(id: ObjectId, record: VolumeRecord) -> csi_pb2.Volume:
    return csi_pb2.Volume(
        volume_id=str(id),
        capacity_bytes=record.capacity_bytes,
        volume_context=volume_context(record),
        content_source=_source(record.source),
    )


def _source(id: str | None) -> csi_pb2.VolumeContentSource | None:
    if id is None:
        return None
    source = csi_pb2.VolumeContentSource()
    if id.startswith("snap"):
        source.snapshot.snapshot_id = id
    else:
        source.volume.volume_id = id
    return source


def record_condition(record: VolumeRecord) -> csi_pb2.VolumeCondition:
    """What the record alone tells, for lists: nothing is asked of the bucket."""
    if record.state is State.DELETING:
        return csi_pb2.VolumeCondition(abnormal=True, message="the volume is being deleted")
    if record.state is State.CREATING:
        return csi_pb2.VolumeCondition(message="content is being copied into the volume")
    return csi_pb2.VolumeCondition(message="the volume is there")


def snapshot_message(id: ObjectId, record: SnapshotRecord) -> csi_pb2.Snapshot:
    created = Timestamp()
    created.FromNanoseconds(record.created_ns)
    return csi_pb2.Snapshot(
        snapshot_id=str(id),
        source_volume_id=record.source,
        size_bytes=record.size_bytes,
        creation_time=created,
        ready_to_use=record.state is State.READY,
    )
