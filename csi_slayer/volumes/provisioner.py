"""What a CSI controller does with volumes and snapshots, without gRPC.

Stateless: everything is in the buckets. Every method raises the SlayerError family only, and may
be repeated at any time, by this process or another one.
"""

from __future__ import annotations

import os
from asyncio import to_thread
from collections.abc import Mapping

from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import BucketNotFound, ConfigError, SlayerError, VolumeNotFound
from csi_slayer.volumes import capacity, options, tokens
from csi_slayer.volumes.creation import Creation
from csi_slayer.volumes.ids import Kind, ObjectId, ephemeral_prefix, parse
from csi_slayer.volumes.layout import Content, content_of
from csi_slayer.volumes.listing import filtered_page
from csi_slayer.volumes.parameters import Authentication, VolumeParameters
from csi_slayer.volumes.records import SnapshotRecord, State, VolumeRecord, id_of
from csi_slayer.volumes.removal import clear, remove_snapshot, remove_volume
from csi_slayer.volumes.session import (
    Secrets,
    Session,
    change,
    parse_volume,
    read_ready,
    snapshots,
    volumes,
)
from csi_slayer.volumes.snapshots import SnapshotCreation, creation_key
from csi_slayer.volumes.turns import Work
from csi_slayer.volumes.wish import understand


class Provisioner:
    """The volumes of a driver. Belongs to one event loop; ``close`` it in the end."""

    def __init__(self, config: DriverConfig, session: Session | None = None) -> None:
        self._session = session or Session.open(config)
        self._config = config

    async def close(self) -> None:
        """End copies and deletions under way, which go on when they are asked for again."""
        await self._session.close()

    async def probe(self) -> None:
        """Whether the driver's own bucket answers. Raises SlayerError with the reason."""
        home = self._session.default_bucket()
        if home is not None:
            access = await self._session.driver_access()
            async with access.store(home.bucket) as store:
                await store.check()

    async def create_volume(
        self,
        name: str,
        parameters: Mapping[str, str],
        mutable: Mapping[str, str],
        secrets: Secrets,
        *,
        required_bytes: int,
        limit_bytes: int,
        source: str | None,
        labels: Mapping[str, str],
    ) -> tuple[ObjectId, VolumeRecord]:
        """The volume of this name, made now or before.

        ``source``: id of a snapshot or volume whose content it begins with. Raises ConfigError,
        CapacityOutOfRange, VolumeConflict (same name, but different), VolumeNotFound (source),
        VolumeBusy (it goes on: ask again), StoreError.
        """
        wish, merged = understand(
            self._session, name, parameters, mutable, required_bytes, limit_bytes, source, labels
        )
        if secrets:
            self._check_authentication(merged)
        access = await self._session.access(wish.volume, secrets, merged)
        return await Creation(self._session, access, wish).run()

    def _check_authentication(self, parameters: VolumeParameters) -> None:
        """Raises ConfigError if a deletion, which knows the secret but not the class, would use
        another identity than the creation."""
        wanted = parameters.authentication is Authentication.DRIVER
        if wanted != (self._session.defaults.authentication is Authentication.DRIVER):
            raise ConfigError(
                "authentication: the class names a provisioner's secret, but the identity it asks"
                f" for is {'the driver' if wanted else 'not the driver'}, and DeleteVolume, which"
                " knows the secret alone, would use the other: remove the secret from the class, or"
                " authentication"
            )

    async def delete_volume(self, volume_id: str, secrets: Secrets) -> None:
        """Delete a volume and all its content. An id that is not this driver's, or of a volume
        that is gone: nothing to do.

        Raises VolumeBusy (it goes on: ask again), VolumeError if its record names what is not its
        own, StoreError.
        """
        try:
            volume = parse(volume_id, Kind.VOLUME)
        except ConfigError:
            return
        access = await self._session.access(volume, secrets)
        await self._session.jobs.join(
            f"delete {volume}",
            f"volume {volume} is being deleted",
            lambda progress: remove_volume(self._session, access, volume, progress),
            Work.DELETION,
            access.service,
        )

    async def get_volume(self, volume_id: str, secrets: Secrets) -> tuple[ObjectId, VolumeRecord]:
        """A volume that is ready. Raises VolumeNotFound, VolumeBusy, StoreError."""
        volume = parse_volume(volume_id)
        async with self._session.volume_home(volume, secrets) as home:
            return volume, (await read_ready(home, volume)).record

    async def list_volumes(
        self, token: str, limit: int
    ) -> tuple[list[tuple[ObjectId, VolumeRecord]], str]:
        """Volumes with their record in the driver's own bucket, by name; and the token of the next
        page, empty at the end. ``limit`` 0: as many as fit a page. Raises VolumeBusy for a token
        that is none."""
        after = tokens.read(Kind.VOLUME, token)
        where = self._session.default_bucket()
        if where is None:
            return [], ""
        access = await self._session.driver_access()
        async with access.store(where.bucket) as store:
            found, following = await filtered_page(
                volumes(store), where, after, limit, lambda record: record.state is State.READY
            )
        named = [(id_of(volume, record), record) for volume, record in found]
        return named, tokens.make(Kind.VOLUME, following)

    async def capacity(self, parameters: Mapping[str, str]) -> int:
        """Bytes that new volumes may have: of an S3 service a large number, of a local directory
        what is free there. Raises ConfigError."""
        options.parse(options.split(parameters)[0], "parameters")
        local = self._config.store.local
        if local is None:
            return capacity.LARGEST
        try:
            state = await to_thread(os.statvfs, local)
        except OSError as error:
            raise ConfigError(f"store.local: {local}: {error.strerror}") from None
        return state.f_bavail * state.f_frsize

    async def expand(
        self, volume_id: str, required_bytes: int, limit_bytes: int, secrets: Secrets
    ) -> int:
        """The capacity after growing; a volume that is large enough stays as it is.

        Raises CapacityOutOfRange, ConfigError, VolumeNotFound, VolumeBusy, StoreError.
        """
        capacity.check_range(required_bytes, limit_bytes)
        volume = parse_volume(volume_id)

        def grow(record: VolumeRecord) -> VolumeRecord:
            grown = capacity.grown(record.capacity_bytes, required_bytes, limit_bytes)
            return record.model_copy(update={"capacity_bytes": grown})

        async with self._session.volume_home(volume, secrets) as home:
            record = await change(home, volume, grow)
        # A volume without a limit has what is asked for, too.
        return record.capacity_bytes or required_bytes

    async def modify(self, volume_id: str, mutable: Mapping[str, str], secrets: Secrets) -> None:
        """Change parameters that can be changed; those not named stay as they are. Nodes apply
        them when the kubelet next publishes the volume.

        Raises ConfigError, VolumeNotFound, VolumeBusy, StoreError.
        """
        options.parse_mutable(mutable, "mutable parameters")
        volume = parse_volume(volume_id)

        def update(record: VolumeRecord) -> VolumeRecord:
            return record.model_copy(update={"mutable": {**record.mutable, **mutable}})

        async with self._session.volume_home(volume, secrets) as home:
            await change(home, volume, update)

    async def condition(self, volume_id: str, secrets: Secrets) -> tuple[bool, str]:
        """Whether something is wrong with a volume, and what. Raises VolumeNotFound."""
        volume = parse_volume(volume_id)
        try:
            access = await self._session.access(volume, secrets)
            async with access.store(volume.bucket) as store:
                record = (await read_ready(volumes(store), volume)).record
            content = content_of(volume, record)
            async with access.store(content.bucket, content.prefix) as store:
                await store.check()
        except VolumeNotFound:
            raise
        except SlayerError as error:
            return True, str(error)
        return False, "bucket and record answer"

    async def create_snapshot(
        self, name: str, source_volume_id: str, parameters: Mapping[str, str], secrets: Secrets
    ) -> tuple[ObjectId, SnapshotRecord]:
        """The snapshot of this name, made now or before, which is ready.

        Raises ConfigError, VolumeConflict (same name, another volume), VolumeNotFound (source),
        VolumeBusy (it goes on: ask again), StoreError.
        """
        volume = parse_volume(source_volume_id)
        access = await self._session.access(volume, secrets)
        return await SnapshotCreation(self._session, access, volume, name).run(parameters)

    async def delete_snapshot(self, snapshot_id: str, secrets: Secrets) -> None:
        """Delete a snapshot; an id that is not this driver's, or of one that is gone: nothing to
        do. Raises VolumeBusy (it goes on: ask again), StoreError."""
        try:
            snapshot = parse(snapshot_id, Kind.SNAPSHOT)
        except ConfigError:
            return
        access = await self._session.access(snapshot, secrets)
        await self._session.jobs.stop(creation_key(snapshot))
        await self._session.jobs.join(
            f"delete {snapshot}",
            f"snapshot {snapshot} is being deleted",
            lambda progress: remove_snapshot(self._session, access, snapshot, progress),
            Work.DELETION,
            access.service,
        )

    async def list_snapshots(
        self,
        token: str,
        limit: int,
        *,
        snapshot_id: str | None,
        source: str | None,
        secrets: Secrets,
    ) -> tuple[list[tuple[ObjectId, SnapshotRecord]], str]:
        """Snapshots that are ready: one, those of a volume, or those with their
        record in the driver's own bucket; and the token of the next page.

        An id of nothing lists nothing. Raises VolumeBusy for a token that is none, StoreError.
        """
        after = tokens.read(Kind.SNAPSHOT, token)
        if snapshot_id is not None:
            return await self._one_snapshot(snapshot_id, source, secrets), ""
        try:
            where = parse(source, Kind.VOLUME) if source else self._session.default_bucket()
        except ConfigError:
            where = None
        if where is None:
            return [], ""
        access = await self._session.access(where, secrets)
        try:
            async with access.store(where.bucket) as store:
                found, following = await filtered_page(
                    snapshots(store), where, after, limit, lambda record: _shown(record, source)
                )
        except BucketNotFound:
            if not source:
                raise  # the driver's own: a fault to be seen
            return [], ""
        return found, tokens.make(Kind.SNAPSHOT, following)

    async def _one_snapshot(
        self, text: str, source: str | None, secrets: Secrets
    ) -> list[tuple[ObjectId, SnapshotRecord]]:
        try:
            snapshot = parse(text, Kind.SNAPSHOT)
            access = await self._session.access(snapshot, secrets)
            async with access.store(snapshot.bucket) as store:
                record = (await snapshots(store).read(snapshot)).record
        except (VolumeNotFound, BucketNotFound, ConfigError):
            return []
        return [(snapshot, record)] if _shown(record, source) else []

    async def delete_ephemeral(self, volume_id: str) -> None:
        """Delete the content of an inline volume that lived as long as its pod; nothing else of
        any volume can be below the prefix that is derived from its id.

        Raises VolumeBusy (it goes on: ask again), StoreError.
        """
        home = self._session.default_bucket()
        if home is None:
            return
        access = await self._session.driver_access()
        content = Content(home.bucket, ephemeral_prefix(volume_id), False)
        what = f"ephemeral volume {volume_id!r} is being deleted"
        await self._session.jobs.join(
            f"delete ephemeral {volume_id}",
            what,
            lambda progress: clear(self._session, access, content, lambda: None, progress),
            Work.DELETION,
        )
        if access.local:
            await access.remove(content.bucket, content.prefix)


def _shown(record: SnapshotRecord, source: str | None) -> bool:
    return record.state is State.READY and source in (None, record.source)
