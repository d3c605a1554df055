"""CreateVolume: a record, and where they are wanted a bucket of its own and content."""

from __future__ import annotations

import structlog

from csi_slayer.errors import (
    AccessDenied,
    BucketNotFound,
    CapacityOutOfRange,
    PreconditionFailed,
    SlayerError,
    VolumeBusy,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.volumes import capacity
from csi_slayer.volumes.claim import check_free, claim
from csi_slayer.volumes.copying import copy_frozen
from csi_slayer.volumes.home import Found, Home
from csi_slayer.volumes.ids import ObjectId
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.layout import Content, content_of
from csi_slayer.volumes.lease import Lease
from csi_slayer.volumes.origin import Origin
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import State, VolumeRecord
from csi_slayer.volumes.removal import clear_notes, clear_volume, remove_volume
from csi_slayer.volumes.rounds import Rounds
from csi_slayer.volumes.session import Session, is_empty, volumes
from csi_slayer.volumes.turns import Work
from csi_slayer.volumes.wish import Wish, placed

log = structlog.get_logger(__name__)

# Why a volume can never be: its source or bucket is gone, its place is another's, or closed to it.
_NEVER = (VolumeNotFound, VolumeConflict, BucketNotFound, AccessDenied)


class Creation:
    """Makes one volume, as often as it is asked to."""

    def __init__(self, session: Session, access: Access, wish: Wish) -> None:
        self._session = session
        self._access = access
        self._wish = wish
        self._origin = None if wish.source is None else Origin(access, wish.volume, wish.source)

    @property
    def _takes_long(self) -> bool:
        return self._wish.content.own or self._origin is not None

    async def run(self) -> tuple[ObjectId, VolumeRecord]:
        """The volume, made now or before. Raises SlayerError."""
        wish = self._wish
        async with self._access.store(wish.volume.bucket) as store:
            home = volumes(store)
            try:
                found = await home.read(wish.volume)
            except VolumeNotFound:
                found = await self._begin(home)
        if found.record.state is State.DELETING:
            await self._end_deletion()
        self._compare(found.record)
        if found.record.state is State.READY:
            return wish.volume, found.record
        # What is made in a moment does not wait for copies that take hours.
        jobs = self._session.jobs if self._takes_long else self._session.quick
        record = await jobs.join(
            f"create {wish.volume}",
            f"volume {wish.volume} is being made",
            self._finish,
            Work.COPY,
            self._access.service,
        )
        return wish.volume, record

    def _compare(self, record: VolumeRecord) -> None:
        """Raises VolumeConflict if what exists is not what is wished, VolumeBusy if it is about to
        vanish."""
        wish = self._wish
        if record.state is State.DELETING:
            raise VolumeBusy(f"volume {wish.volume} is being deleted: ask again")
        differing = [
            what
            for what, same in (
                ("name", record.csi_name == wish.name),
                ("capacity", capacity.fits(record.capacity_bytes, wish.required, wish.limit)),
                ("parameters", record.parameters == wish.parameters),
                ("source", record.source == wish.source),
            )
            if not same
        ]
        if differing:
            raise VolumeConflict(
                f"volume {wish.volume} exists with another {' and another '.join(differing)}:"
                " delete it, or choose another name"
            )
        if content_of(wish.volume, record) != wish.content:
            raise VolumeConflict(
                f"volume {wish.volume} exists at another prefix: the driver's configuration was"
                " changed; delete the volume, or set it back"
            )

    async def _begin(self, home: Home[VolumeRecord]) -> Found[VolumeRecord]:
        """Write the record, or find that of somebody who was faster."""
        wish = self._wish
        chosen = await self._choose_capacity()
        if not wish.content.own:
            # Looked at again when the record is there; what is refused now leaves no trace.
            try:
                await check_free(self._access, home, wish.volume, wish.content)
            except VolumeConflict:
                if (faster := await self._made_meanwhile(home)) is not None:
                    return faster
                raise
        record = placed(wish.name, wish.content).model_copy(
            update={
                "state": State.CREATING,
                "claimed": wish.content.own,
                "capacity_bytes": chosen,
                "parameters": wish.parameters,
                "mutable": wish.mutable,
                "source": wish.source,
                "labels": wish.labels,
            }
        )
        try:
            return await home.create(wish.volume, record)
        except PreconditionFailed:
            return await home.read(wish.volume)

    async def _made_meanwhile(self, home: Home[VolumeRecord]) -> Found[VolumeRecord] | None:
        """What is at the volume's prefix is its own where another controller was faster."""
        try:
            return await home.read(self._wish.volume)
        except VolumeNotFound:
            return None

    async def _end_deletion(self) -> None:
        """Go on with the deletion of a volume of this name: where it began because the volume could
        not be, nobody else knows the id."""
        volume = self._wish.volume
        await self._session.jobs.join(
            f"delete {volume}",
            f"volume {volume} is being deleted",
            lambda progress: remove_volume(self._session, self._access, volume, progress),
            Work.DELETION,
            self._access.service,
        )

    async def _choose_capacity(self) -> int:
        """Raises CapacityOutOfRange also where the source would not fit."""
        wish = self._wish
        if self._origin is None:
            return capacity.choose(wish.required, wish.limit)
        source = await self._origin.read()
        chosen = capacity.choose(wish.required, wish.limit, source.capacity)
        if chosen and chosen < max(source.capacity, source.size):
            raise CapacityOutOfRange(
                f"capacity_range: the source has {max(source.capacity, source.size)} bytes:"
                " the new volume needs as many"
            )
        return chosen

    async def _copy(
        self, origin: Origin, content: Content, lease: Lease[VolumeRecord], progress: Progress
    ) -> None:
        source = await origin.read()
        async with (
            self._access.store(source.bucket, source.prefix) as there,
            self._access.store(content.bucket, content.prefix) as here,
        ):
            parallel, check = self._session.parallel, lease.check
            if source.frozen:
                await copy_frozen(there, source.below, here, progress, parallel, check)
            else:
                volume = self._wish.volume
                if self._access.local:
                    await self._access.make(volume.bucket, volume.copying_prefix)
                async with self._access.store(volume.bucket, volume.copying_prefix) as notes:
                    await Rounds(there, here, "", notes, progress, parallel, check).run()
        await origin.check_unchanged(source)
        await lease.write(copied=True)

    async def _finish(self, progress: Progress) -> VolumeRecord:
        """The part of making a volume that takes time; it goes on where an earlier one ended."""
        wish = self._wish
        async with self._access.store(wish.volume.bucket) as store:
            home = volumes(store)
            found = await home.read(wish.volume)
            self._compare(found.record)
            if found.record.state is State.READY:
                return found.record
            lease = self._session.lease(home, wish.volume)
            await lease.take(found)
            return await lease.run(lambda: self._make(home, lease, progress))

    async def _make(
        self, home: Home[VolumeRecord], lease: Lease[VolumeRecord], progress: Progress
    ) -> VolumeRecord:
        try:
            return await self._fill(home, lease, progress)
        except _NEVER:
            await self._withdraw(lease, progress)
            raise

    async def _withdraw(self, lease: Lease[VolumeRecord], progress: Progress) -> None:
        """Leave nothing of a volume that can never be. Nobody may ask to delete it, since nobody
        was told its id."""
        try:
            await lease.write(state=State.DELETING)
            wish = self._wish
            await clear_volume(
                self._session, self._access, wish.volume, wish.content, lease, progress
            )
        except SlayerError as error:
            log.warning("the rest of a volume stays", volume=self._wish.name, reason=str(error))

    async def _fill(
        self, home: Home[VolumeRecord], lease: Lease[VolumeRecord], progress: Progress
    ) -> VolumeRecord:
        content = self._wish.content
        if not lease.record.claimed:
            await claim(self._access, home, self._wish.volume, content, lease.check)
            if self._origin is not None:
                await lease.write(claimed=True)
        if content.own and not lease.record.bucket_made:
            await self._access.make(content.bucket)
            async with self._access.store(content.bucket) as store:
                empty = await is_empty(store)
            if not empty:
                raise VolumeConflict(
                    f"bucket {content.bucket!r}, which the volume was to have for itself, exists"
                    " and is not empty: remove it, or choose another name"
                )
            await lease.write(bucket_made=True)
        if self._origin is not None and not lease.record.copied:
            await self._copy(self._origin, content, lease, progress)
        if self._origin is not None and self._origin.living:
            # Before others may change the volume: its name may be used again.
            await clear_notes(self._session, self._access, self._wish.volume, lease.check)
        return await lease.finish(state=State.READY, claimed=True)
