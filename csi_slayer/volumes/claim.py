"""A prefix for a new volume: nobody else's, although controllers may make several at once.

Of two volumes of which one would be within the other, at least one has to notice. So each writes
before it looks: its record, and an object whose key is its prefix. Then the inner one looks for the
records of volumes above, the outer one for objects below. Whichever looks last sees the other.
"""

from __future__ import annotations

from collections.abc import Callable

from csi_slayer.errors import (
    BucketNotFound,
    KeyObstructed,
    ObjectNotFound,
    VolumeBusy,
    VolumeConflict,
    VolumeNotFound,
)
from csi_slayer.volumes.home import Home
from csi_slayer.volumes.ids import Kind, ObjectId, valid_name
from csi_slayer.volumes.layout import Content
from csi_slayer.volumes.places import Access
from csi_slayer.volumes.records import VolumeRecord
from csi_slayer.volumes.session import is_empty

# Times that a deletion of another volume may take the mark away while we look.
_TRIES = 3


async def check_free(
    access: Access, home: Home[VolumeRecord], volume: ObjectId, content: Content
) -> None:
    """Raises VolumeConflict if the prefix has objects, or is within that of another volume: they
    are somebody's, and would be deleted with the volume."""
    await _check_above(home, volume, content)
    if access.local:
        await access.make(content.bucket, content.prefix)
    async with access.store(content.bucket, content.prefix) as store:
        empty = await is_empty(store)
    if not empty:
        raise VolumeConflict(
            f"bucket {content.bucket!r} has objects below {content.prefix!r} that belong to no"
            " volume of this name: remove them, or choose another prefix or name"
        )


async def claim(
    access: Access,
    home: Home[VolumeRecord],
    volume: ObjectId,
    content: Content,
    check: Callable[[], None],
) -> None:
    """Mark the prefix as that of ``volume``, whose record is there already, and see that it is
    nobody else's. ``check`` is called before each step and raises when this process must not go on.

    Raises VolumeConflict, VolumeBusy, StoreError.
    """
    for _ in range(_TRIES):
        check()
        await _mark(access, content)
        check()
        await check_free(access, home, volume, content)
        # The deletion of a volume above, whose record is gone since, may have taken the mark with
        # it before we looked: then a new one there would not see us.
        if await _is_marked(access, content):
            return
    raise VolumeBusy(f"volume {volume}: its prefix is being deleted by something else: ask again")


async def withdraw(access: Access, content: Content) -> None:
    """Take the mark back; what else is there was never the volume's."""
    if not access.local:
        async with access.store(content.bucket, content.prefix) as store:
            await store.delete("")
        return
    try:
        async with access.store(content.bucket, content.prefix) as store:
            empty = await is_empty(store)
    except BucketNotFound:
        return  # no such directory
    if empty:
        await access.remove(content.bucket, content.prefix)


async def _mark(access: Access, content: Content) -> None:
    if access.local:
        await access.make(content.bucket, content.prefix)
        return
    async with access.store(content.bucket, content.prefix) as store:
        try:
            await store.put("", b"")  # no part of this volume's content or of that of one above
        except KeyObstructed as error:
            raise VolumeConflict(f"{error}: choose another prefix or name") from None


async def _is_marked(access: Access, content: Content) -> bool:
    if access.local:
        return not await access.make(content.bucket, content.prefix)
    async with access.store(content.bucket, content.prefix) as store:
        try:
            await store.head("")
        except ObjectNotFound:
            return False
    return True


async def _check_above(home: Home[VolumeRecord], volume: ObjectId, content: Content) -> None:
    parts = content.prefix.split("/")[:-2]
    for depth, name in enumerate(parts, 1):
        if not valid_name(name):
            continue
        above = ObjectId(Kind.VOLUME, volume.bucket, name)
        try:
            record = (await home.read(above)).record
        except VolumeNotFound:
            continue
        if record.prefix == "/".join(parts[:depth]) + "/":
            raise VolumeConflict(
                f"prefix: {record.prefix!r} belongs to volume {above}, and would be deleted"
                " with it: choose another one for the class"
            )
