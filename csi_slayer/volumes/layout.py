"""What belongs to a volume, derived from its id: the record is only believed where it agrees."""

from __future__ import annotations

from dataclasses import dataclass

from csi_slayer.errors import ConfigError, VolumeError
from csi_slayer.volumes.ids import SYSTEM, ObjectId, base_digest, normal_prefix, own_bucket
from csi_slayer.volumes.records import VolumeRecord, prefix_base


@dataclass(frozen=True, slots=True)
class Content:
    """Where a volume's objects are. ``prefix`` is empty in a bucket of its own (``own``)."""

    bucket: str
    prefix: str
    own: bool


def planned_content(volume: ObjectId, base: str, own: bool) -> Content:
    """Where a new volume's objects will be. Raises ConfigError for a base that cannot be."""
    if own:
        return Content(own_bucket(volume), "", True)
    base = normal_prefix(base)
    if base.startswith(SYSTEM):
        raise ConfigError(f"prefix: {SYSTEM} is where the driver keeps its records: choose another")
    return Content(volume.bucket, f"{base}{volume.name}/", False)


def content_of(volume: ObjectId, record: VolumeRecord) -> Content:
    """Where a volume's objects are. Raises VolumeError if its record names anything but what can
    be this volume's own: then nobody can say what may be deleted."""
    wrong = VolumeError(
        f"the record {volume.record_key} in bucket {volume.bucket!r} names a place that is not"
        f" that of volume {volume}: somebody changed it. Nothing was changed; mend bucket and"
        " prefix in it, or remove it with what belongs to it"
    )
    if record.own_bucket:
        if record.prefix or record.bucket != own_bucket(volume) or volume.base is not None:
            raise wrong
        return Content(record.bucket, "", True)
    base = prefix_base(record.prefix, volume.name)
    if record.bucket != volume.bucket or base is None or base_digest(base) != volume.base:
        raise wrong
    try:
        return planned_content(volume, base, False)
    except ConfigError:
        raise wrong from None
