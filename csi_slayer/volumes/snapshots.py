"""CreateSnapshot and DeleteSnapshot: copies of a volume's objects in its home bucket."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping

import structlog

from csi_slayer.errors import (
    ConfigError,
    PreconditionFailed,
    SlayerError,
    VolumeBusy,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.store.base import ObjectStore
from csi_slayer.volumes.bounded import for_each
from csi_slayer.volumes.copying import copy_object
from csi_slayer.volumes.home import Found, Home
from csi_slayer.volumes.ids import Kind, ObjectId, safe_name
from csi_slayer.volumes.jobs import Progress, StillRunning
from csi_slayer.volumes.layout import content_of
from csi_slayer.volumes.lease import Lease
from csi_slayer.volumes.manifest import (
    CHANGED,
    DATA,
    GONE,
    Entry,
    Page,
    count_pages,
    entries_of,
    read_page,
    write_page,
)
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import SnapshotRecord, State, VolumeRecord
from csi_slayer.volumes.removal import remove_snapshot
from csi_slayer.volumes.session import Session, read_ready, snapshots, volumes

log = structlog.get_logger(__name__)

PAGE = 1000
"""Entries of a manifest page: what one listing answers."""


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
        """The snapshot; its state is CREATING while copies are under way."""
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
        if found.record.state is State.READY:
            return snapshot, found.record
        try:
            what = f"snapshot {snapshot} is being made"
            record = await self._session.jobs.join(creation_key(snapshot), what, self._finish)
        except StillRunning:
            record = found.record
        return snapshot, record

    def _compare(self, record: SnapshotRecord) -> None:
        snapshot = self._snapshot
        if record.state is State.DELETING:
            raise VolumeBusy(f"snapshot {snapshot} is being deleted: ask again")
        if record.csi_name != self._name or record.source != str(self._volume):
            raise VolumeConflict(
                f"snapshot {snapshot} exists, of another volume or name: choose another name"
            )

    async def _begin(self, home: Home[SnapshotRecord], store: ObjectStore) -> Found[SnapshotRecord]:
        source = (await read_ready(volumes(store), self._volume)).record
        record = SnapshotRecord(
            csi_name=self._name,
            source=str(self._volume),
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
            except VolumeNotFound:
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
            pages = await _list_all(origin, target, lease.check)
            objects, size = await _copy_all(
                origin, target, pages, progress, self._session.parallel, lease.check
            )
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


async def _list_all(origin: ObjectStore, target: ObjectStore, check: Callable[[], None]) -> int:
    """Write the pages that are missing; how many there are."""
    number = await count_pages(target)
    after: str | None = None
    if number:
        page = await read_page(target, number - 1)
        if page.last:
            return number
        after = page.entries[-1].key
    token: str | None = None
    while True:
        check()
        listed = await origin.list_page(
            "", delimiter=False, token=token, start_after=after, limit=PAGE
        )
        token = listed.token
        page = Page(entries=entries_of(listed.objects), last=token is None)
        if page.entries or page.last:
            await write_page(target, number, page)
            number += 1
        if page.last:
            return number


async def _copy_all(
    origin: ObjectStore,
    target: ObjectStore,
    pages: int,
    progress: Progress,
    parallel: int,
    check: Callable[[], None],
) -> tuple[int, int]:
    """Copy what is in the pages that are not done; objects and bytes of all of them."""
    objects = size = 0
    for number in range(pages):
        check()
        page = await read_page(target, number)
        if not page.done:
            page = await _copy_page(origin, target, page, progress, parallel, check)
            check()
            await write_page(target, number, page)
        kept = [entry for entry in page.entries if entry.note != GONE]
        objects += len(kept)
        size += sum(entry.size for entry in kept)
    return objects, size


async def _copy_page(
    origin: ObjectStore,
    target: ObjectStore,
    page: Page,
    progress: Progress,
    parallel: int,
    check: Callable[[], None],
) -> Page:
    copied: dict[str, Entry] = {}

    async def one(entry: Entry) -> None:
        check()
        made = await copy_object(origin, entry.key, target, DATA + entry.key, entry.etag)
        if made is None:
            copied[entry.key] = entry.model_copy(update={"note": GONE})
            return
        progress.add(1, made.size)
        if made.etag != entry.etag:
            changes = {"size": made.size, "etag": made.etag, "note": CHANGED}
            entry = entry.model_copy(update=changes)
        copied[entry.key] = entry

    async def entries() -> AsyncGenerator[Entry, None]:
        for entry in page.entries:
            yield entry

    await for_each(entries(), one, parallel)
    return Page(entries=[copied[e.key] for e in page.entries], last=page.last, done=True)
