"""What a new volume's content is copied from: a snapshot, or another volume."""

from __future__ import annotations

from dataclasses import dataclass

from csi_slayer.errors import ConfigError, VolumeBusy, VolumeNotFound
from csi_slayer.volumes.ids import Kind, ObjectId
from csi_slayer.volumes.layout import content_of
from csi_slayer.volumes.manifest import DATA
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import State
from csi_slayer.volumes.session import (
    parse_snapshot,
    parse_volume,
    read_ready,
    snapshots,
    volumes,
)


@dataclass(frozen=True, slots=True)
class Source:
    """A source as it is now. ``below``: what its keys begin with in the store of ``prefix``.

    ``capacity``, ``size`` in bytes, 0 if there is no limit, or where it is not known.
    ``frozen``: its objects never change.
    """

    bucket: str
    prefix: str
    below: str
    capacity: int
    size: int
    created_ns: int
    frozen: bool


class Origin:
    """Finds the source of a new volume. Raises VolumeNotFound for an id that is none, ConfigError
    for one on another S3 service: copies are made by the service itself."""

    def __init__(self, access: Access, volume: ObjectId, source: str) -> None:
        self._access = access
        snapshot = source.startswith(f"{Kind.SNAPSHOT.value}:")
        self._id = parse_snapshot(source) if snapshot else parse_volume(source)
        if (self._id.endpoint, self._id.region) != (volume.endpoint, volume.region):
            raise ConfigError(
                f"source {self._id}: it is on another S3 service or in another region than the"
                " storage class: choose a class on the same one"
            )

    @property
    def living(self) -> bool:
        """Whether it is a volume, which may change while it is copied."""
        return self._id.kind is Kind.VOLUME

    async def read(self) -> Source:
        """Raises VolumeNotFound, VolumeBusy if it is not ready, StoreError."""
        found = self._id
        async with self._access.store(found.bucket) as store:
            if found.kind is Kind.VOLUME:
                record = (await read_ready(volumes(store), found)).record
                content = content_of(found, record)
                return Source(
                    content.bucket,
                    content.prefix,
                    "",
                    record.capacity_bytes,
                    0,
                    record.created_ns,
                    frozen=False,
                )
            snapshot = (await snapshots(store).read(found)).record
        if snapshot.state is State.DELETING:
            raise VolumeNotFound(f"snapshot {found} is being deleted")
        if snapshot.state is State.CREATING:
            raise VolumeBusy(f"snapshot {found} is being made: ask again")
        return Source(
            found.bucket,
            found.snapshot_prefix,
            DATA,
            snapshot.capacity_bytes,
            snapshot.size_bytes,
            snapshot.created_ns,
            frozen=True,
        )

    async def check_unchanged(self, source: Source) -> None:
        """Raises VolumeNotFound if it was deleted since: then not all of it was copied."""
        if (await self.read()).created_ns != source.created_ns:
            raise VolumeNotFound(f"source {self._id} was deleted while it was copied")
