"""DeleteVolume and DeleteSnapshot: first the record says so, then content goes, then the record.

Snapshots of a volume are copies: they stay.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from csi_slayer.errors import BucketNotFound, VolumeNotFound
from csi_slayer.volumes.claim import withdraw
from csi_slayer.volumes.deletion import delete_content
from csi_slayer.volumes.ids import ObjectId
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.layout import Content, content_of
from csi_slayer.volumes.lease import Lease
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import State, VolumeRecord
from csi_slayer.volumes.session import Session, is_empty, snapshots, volumes

log = structlog.get_logger(__name__)


async def remove_volume(
    session: Session, access: Access, volume: ObjectId, progress: Progress
) -> None:
    """Delete a volume with everything in it; one that is not there is no error."""
    try:
        async with access.store(volume.bucket) as store:
            home = volumes(store)
            found = await home.read(volume)
            content = content_of(volume, found.record)
            lease = session.lease(home, volume)
            making = found.record.state is State.CREATING
            await lease.take(found, preempt=making, state=State.DELETING)
            await lease.run(lambda: clear_volume(session, access, volume, content, lease, progress))
    except VolumeNotFound:
        return
    except BucketNotFound as error:
        log.warning("a volume's bucket is gone, and the volume with it", reason=str(error))


async def clear_volume(
    session: Session,
    access: Access,
    volume: ObjectId,
    content: Content,
    lease: Lease[VolumeRecord],
    progress: Progress,
) -> None:
    """Delete what belongs to a volume whose record says DELETING, then the record."""
    if not lease.record.claimed:
        # Whatever is at its prefix may be somebody else's.
        lease.check()
        await withdraw(access, content)
    else:
        if not content.own or lease.record.bucket_made:
            await clear(session, access, content, lease.check, progress)
        if content.own:
            await _remove_bucket(access, content, lease)
        elif access.local:
            lease.check()
            await access.remove(content.bucket, content.prefix)
    if lease.record.source is not None:
        await clear_notes(session, access, volume, lease.check)
    await lease.remove()


async def clear_notes(
    session: Session, access: Access, volume: ObjectId, check: Callable[[], None]
) -> None:
    """Delete what was noted while a volume was made as a clone of another."""
    notes = Content(volume.bucket, volume.copying_prefix, False)
    await clear(session, access, notes, check, Progress(f"notes of {volume} are being deleted"))
    if access.local:
        check()
        await access.remove(notes.bucket, notes.prefix)


async def clear(
    session: Session,
    access: Access,
    content: Content,
    check: Callable[[], None],
    progress: Progress,
) -> None:
    """Delete all objects of a prefix or of an own bucket, which may be gone already."""
    try:
        async with access.store(content.bucket, content.prefix) as store:
            await delete_content(store, progress, session.parallel, check)
            if content.prefix:
                # The object whose key is the prefix itself: some tools make one as a "directory".
                await store.delete("")
    except BucketNotFound:
        if not content.own and not access.local:
            raise


async def _remove_bucket(access: Access, content: Content, lease: Lease[VolumeRecord]) -> None:
    """Delete the bucket that was the volume's alone; one that we may not have made, and that is
    not empty, stays."""
    lease.check()
    if not lease.record.bucket_made:
        try:
            async with access.store(content.bucket) as store:
                empty = await is_empty(store)
        except BucketNotFound:
            return
        if not empty:
            log.warning("a bucket stays: it was not made for the volume", bucket=content.bucket)
            return
    await access.remove(content.bucket)


async def remove_snapshot(
    session: Session, access: Access, snapshot: ObjectId, progress: Progress
) -> None:
    """Delete a snapshot's copies, manifest and record; one that is not there is no error."""
    content = Content(snapshot.bucket, snapshot.snapshot_prefix, False)
    try:
        async with access.store(snapshot.bucket) as store:
            home = snapshots(store)
            found = await home.read(snapshot)
            lease = session.snapshot_lease(home, snapshot)
            making = found.record.state is State.CREATING
            await lease.take(found, preempt=making, state=State.DELETING)

            async def work() -> None:
                await clear(session, access, content, lease.check, progress)
                if access.local:
                    lease.check()
                    await access.remove(content.bucket, content.prefix)
                await lease.remove()

            await lease.run(work)
    except VolumeNotFound:
        return
    except BucketNotFound as error:
        log.warning("a snapshot's bucket is gone, and the snapshot with it", reason=str(error))
