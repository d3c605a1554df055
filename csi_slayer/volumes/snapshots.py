"""CreateSnapshot and DeleteSnapshot: copies of a volume's objects in its home bucket."""

from __future__ import annotations

import time
from collections.abc import Mapping

import structlog

from csi_slayer.errors import (
    BucketNotFound,
    ConfigError,
    PreconditionFailed,
    SlayerError,
    VolumeBusy,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.store.base import ObjectStore
from csi_slayer.volumes.home import Found, Home
from csi_slayer.volumes.ids import Kind, ObjectId, safe_name
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.layout import content_of
from csi_slayer.volumes.lease import Lease
from csi_slayer.volumes.manifest import DATA
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import SnapshotRecord, State, VolumeRecord
from csi_slayer.volumes.removal import remove_snapshot
from csi_slayer.volumes.rounds import Rounds
from csi_slayer.volumes.session import Session, read_ready, snapshots, volumes
from csi_slayer.volumes.turns import Work

log = structlog.get_logger(__name__)


def snapshot_of(volume: ObjectId, name: str) -> ObjectId:
    """The id of a volume's snapshot: its home is the volume's."""
    return ObjectId(Kind.SNAPSHOT, volume.bucket, safe_name(name), volume.endpoint, volume.region)


class SnapshotCreation:
    """Makes one snapshot, as often as it is asked to."""

    def __init__(self, session: Session, access: Access, volume: ObjectId, name: str) -> None:
        self._session = session
        self._access = access
        self._volume = volume
        self._name = name
        self._snapshot = snapshot_of(volume, name)

    async def run(self, parameters: Mapping[str, str]) -> tuple[ObjectId, SnapshotRecord]:
        """The snapshot, which is ready. Raises StillRunning while copies are under way: it is cut
        when the last of them is done."""
        if parameters:
            raise ConfigError(
                f"parameters: {', '.join(sorted(parameters))}: a snapshot class of this driver has"
                " none: remove them"
            )
        snapshot = self._snapshot
        async with self._access.store(snapshot.bucket) as store:
            home = snapshots(store)
            try:
                found = await home.read(snapshot)
            except VolumeNotFound:
                found = await self._begin(home, store)
            self._compare(found.record)
            await self._compare_source(volumes(store), found.record)
        if found.record.state is State.READY:
            return snapshot, found.record
        what = f"snapshot {snapshot} is being made"
        record = await self._session.jobs.join(
            creation_key(snapshot), what, self._finish, Work.COPY, self._access.service
        )
        return snapshot, record

    def _compare(self, record: SnapshotRecord) -> None:
        snapshot = self._snapshot
        if record.state is State.DELETING:
            raise VolumeBusy(f"snapshot {snapshot} is being deleted: ask again")
        if record.csi_name != self._name or record.source != str(self._volume):
            raise VolumeConflict(
                f"snapshot {snapshot} exists, of another volume or name: choose another name"
            )

    async def _compare_source(self, home: Home[VolumeRecord], record: SnapshotRecord) -> None:
        """Raises VolumeConflict if the volume was deleted since, and made anew under its name."""
        try:
            now = (await home.read(self._volume)).record
        except VolumeNotFound:
            return
        if record.source_created_ns not in (0, now.created_ns):
            raise VolumeConflict(
                f"snapshot {self._snapshot} exists, of an earlier volume {self._volume}: choose"
                " another name"
            )

    async def _begin(self, home: Home[SnapshotRecord], store: ObjectStore) -> Found[SnapshotRecord]:
        source = (await read_ready(volumes(store), self._volume)).record
        record = SnapshotRecord(
            csi_name=self._name,
            source=str(self._volume),
            source_created_ns=source.created_ns,
            state=State.CREATING,
            capacity_bytes=source.capacity_bytes,
        )
        try:
            return await home.create(self._snapshot, record)
        except PreconditionFailed:
            return await home.read(self._snapshot)

    async def _finish(self, progress: Progress) -> SnapshotRecord:
        snapshot = self._snapshot
        async with self._access.store(snapshot.bucket) as store:
            home = snapshots(store)
            found = await home.read(snapshot)
            self._compare(found.record)
            if found.record.state is State.READY:
                return found.record
            lease = self._session.snapshot_lease(home, snapshot)
            await lease.take(found)
            try:
                return await lease.run(lambda: self._copy(store, lease, progress))
            except (VolumeNotFound, BucketNotFound):
                await self._withdraw(progress)
                raise

    async def _withdraw(self, progress: Progress) -> None:
        """Leave nothing of a snapshot whose volume is gone: it can never be."""
        try:
            await remove_snapshot(self._session, self._access, self._snapshot, progress)
        except SlayerError as error:
            log.warning("the rest of a snapshot stays", snapshot=self._name, reason=str(error))

    async def _copy(
        self, store: ObjectStore, lease: Lease[SnapshotRecord], progress: Progress
    ) -> SnapshotRecord:
        source = (await read_ready(volumes(store), self._volume)).record
        content = content_of(self._volume, source)
        prefix = self._snapshot.snapshot_prefix
        if self._access.local:
            await self._access.make(self._snapshot.bucket, prefix)
        async with (
            self._access.store(content.bucket, content.prefix) as origin,
            self._access.store(self._snapshot.bucket, prefix) as target,
        ):
            rounds = Rounds(
                origin, target, DATA, target, progress, self._session.parallel, lease.check
            )
            objects, size = await rounds.run()
        await _still_there(volumes(store), self._volume, source)
        return await lease.finish(
            state=State.READY, objects=objects, size_bytes=size, finished_ns=time.time_ns()
        )


def creation_key(snapshot: ObjectId) -> str:
    """Name of the job that makes a snapshot."""
    return f"create {snapshot}"


async def _still_there(home: Home[VolumeRecord], volume: ObjectId, before: VolumeRecord) -> None:
    """Raises VolumeNotFound if the volume was deleted meanwhile: what was copied is not all."""
    now = (await read_ready(home, volume)).record
    if now.created_ns != before.created_ns:
        raise VolumeNotFound(f"volume {volume} was deleted while it was copied")
