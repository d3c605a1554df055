"""What all provisioning shares: configuration, open stores, jobs; and the way from a call to the
buckets that it is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import ConfigError, PreconditionFailed, VolumeBusy, VolumeNotFound
from csi_slayer.store.base import ObjectStore
from csi_slayer.volumes import options
from csi_slayer.volumes.home import Found, Home
from csi_slayer.volumes.identity import driver_identity, provisioning_identity
from csi_slayer.volumes.ids import Kind, ObjectId, parse
from csi_slayer.volumes.jobs import Jobs
from csi_slayer.volumes.layout import content_of
from csi_slayer.volumes.lease import LEASE, Lease
from csi_slayer.volumes.parameters import VolumeParameters
from csi_slayer.volumes.places import Access, Service
from csi_slayer.volumes.records import SnapshotRecord, State, VolumeRecord
from csi_slayer.volumes.stores import StorePool

Secrets = Mapping[str, str]

# Of a record that others change at the same time.
_TRIES = 5


def volumes(store: ObjectStore) -> Home[VolumeRecord]:
    """The volumes' records of a home bucket."""
    return Home(store, Kind.VOLUME, VolumeRecord)


def snapshots(store: ObjectStore) -> Home[SnapshotRecord]:
    """The snapshots' records of a home bucket."""
    return Home(store, Kind.SNAPSHOT, SnapshotRecord)


@dataclass
class Session:
    """``lease_seconds``: shorter in tests. ``pool``: open stores. ``jobs``: copies and deletions;
    ``quick``: what is done in a moment."""

    config: DriverConfig
    pool: StorePool
    jobs: Jobs
    defaults: VolumeParameters
    lease_seconds: float = LEASE
    parallel: int = field(init=False)
    quick: Jobs = field(init=False)

    def __post_init__(self) -> None:
        self.parallel = self.config.controller.parallel
        self.quick = Jobs(self.config.controller.wait)

    @staticmethod
    def open(config: DriverConfig) -> Session:
        """Raises ConfigError if the driver's own volume parameters are wrong."""
        defaults = options.parse(config.volumes, "volumes of the driver's configuration")
        wait = config.controller.wait
        return Session(config, StorePool(retry_deadline=wait), Jobs(wait), defaults)

    async def close(self) -> None:
        await self.jobs.close()
        await self.quick.close()
        await self.pool.close()

    async def access(
        self, found: ObjectId, secrets: Secrets, parameters: VolumeParameters | None = None
    ) -> Access:
        """The buckets of an id's service. Raises ConfigError, AccessDenied."""
        identity = await provisioning_identity(
            self.config.store, parameters or self.defaults, secrets
        )
        return Access(self.config, self.pool, Service.of_id(found), identity)

    async def driver_access(self) -> Access:
        """The buckets of the driver's own service with its own identity. Raises AccessDenied."""
        identity = await driver_identity(self.config.store)
        return Access(self.config, self.pool, Service(), identity)

    def lease(self, home: Home[VolumeRecord], what: ObjectId) -> Lease[VolumeRecord]:
        return Lease(home, what, self.lease_seconds)

    def snapshot_lease(self, home: Home[SnapshotRecord], what: ObjectId) -> Lease[SnapshotRecord]:
        return Lease(home, what, self.lease_seconds)

    @asynccontextmanager
    async def volume_home(
        self, found: ObjectId, secrets: Secrets
    ) -> AsyncIterator[Home[VolumeRecord]]:
        access = await self.access(found, secrets)
        async with access.store(found.bucket) as store:
            yield volumes(store)

    def default_bucket(self) -> ObjectId | None:
        """Any id of the driver's own bucket, to list it; None if there is no such bucket."""
        bucket = self.config.store.bucket
        return None if bucket is None else ObjectId(Kind.VOLUME, bucket, "any")


async def is_empty(store: ObjectStore) -> bool:
    """Whether a prefix or bucket has no objects but the one whose key is the prefix itself."""
    # That one counts in a page, but is left out of it.
    return not (await store.list_page("", delimiter=False, limit=2)).objects


def parse_volume(text: str) -> ObjectId:
    """A volume's id; VolumeNotFound if it is none of this driver's."""
    try:
        return parse(text, Kind.VOLUME)
    except ConfigError as error:
        raise VolumeNotFound(f"there is no volume {text[:128]!r}: {error}") from None


def parse_snapshot(text: str) -> ObjectId:
    """A snapshot's id; VolumeNotFound if it is none of this driver's."""
    try:
        return parse(text, Kind.SNAPSHOT)
    except ConfigError as error:
        raise VolumeNotFound(f"there is no snapshot {text[:128]!r}: {error}") from None


async def change(
    home: Home[VolumeRecord], volume: ObjectId, make: Callable[[VolumeRecord], VolumeRecord]
) -> VolumeRecord:
    """Change the record of a volume that is ready, again if somebody else changed it meanwhile.

    Raises VolumeNotFound, VolumeBusy, and what ``make`` raises.
    """
    for _ in range(_TRIES):
        found = await read_ready(home, volume)
        record = make(found.record)
        if record == found.record:
            return record
        try:
            return (await home.replace(volume, found, record)).record
        except PreconditionFailed:
            continue
    raise VolumeBusy(f"{volume}: its record is being changed by others: ask again")


async def read_ready(home: Home[VolumeRecord], volume: ObjectId) -> Found[VolumeRecord]:
    """The record of a volume that exists. Raises VolumeNotFound, VolumeBusy while it is being
    made, VolumeError if the record is not this volume's."""
    found = await home.read(volume)
    content_of(volume, found.record)
    if found.record.state is State.DELETING:
        raise VolumeNotFound(f"volume {volume} is being deleted")
    if found.record.state is State.CREATING:
        raise VolumeBusy(f"volume {volume} is being made: ask again")
    return found
