"""Server-side copies of single objects, and of snapshots, which never change.

What has been copied of a snapshot is what the target has: a copy that was interrupted goes on by
comparing two listings.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from csi_slayer.errors import ObjectNotFound, PreconditionFailed, StoreIntegrityError, VolumeBusy
from csi_slayer.store.base import ObjectInfo, ObjectStore
from csi_slayer.store.paging import each_page
from csi_slayer.volumes.bounded import for_each
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.session import is_empty

# Of an object that changes again and again while it is copied.
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Copied:
    """``etag``: the version of the source that was copied."""

    size: int
    etag: str


async def copy_object(
    origin: ObjectStore, source: str, target_store: ObjectStore, target: str, etag: str
) -> Copied | None:
    """Copy the version ``etag``, or the one that is there instead; None if there is none any more.

    Raises VolumeBusy for an object that never stays the same for as long as a copy takes.
    """
    for _ in range(_TRIES):
        try:
            made = await target_store.copy_from(origin, source, target, source_etag=etag)
            return Copied(made.size, etag)
        except PreconditionFailed:
            try:
                etag = (await origin.head(source)).etag
            except ObjectNotFound:
                return None
        except ObjectNotFound:
            return None
    raise VolumeBusy(f"{source!r} changes faster than it can be copied: ask again")


async def copy_frozen(
    origin: ObjectStore,
    below: str,
    target: ObjectStore,
    progress: Progress,
    parallel: int,
    check: Callable[[], None],
) -> None:
    """Copy every object whose key begins with ``below`` to the key without it; one that vanishes
    meanwhile is an error.

    ``check`` is called before each copy and raises when this process must not go on.
    """

    async def missing() -> AsyncGenerator[ObjectInfo, None]:
        fresh = await is_empty(target)
        after = ""
        async for page in _pages(origin, below, check):
            last = page[-1].key.removeprefix(below)
            present = {} if fresh else await _sizes(target, after, last)
            for info in page:
                key = info.key.removeprefix(below)
                if key and present.get(key) != info.size:
                    yield info
            after = last

    async def one(info: ObjectInfo) -> None:
        check()
        key = info.key.removeprefix(below)
        copied = await copy_object(origin, info.key, target, key, info.etag)
        if copied is None:
            raise StoreIntegrityError(f"{info.key!r}, a part of the snapshot, has vanished")
        progress.add(1, copied.size)

    await for_each(missing(), one, parallel)


async def _pages(
    store: ObjectStore, below: str, check: Callable[[], None]
) -> AsyncGenerator[list[ObjectInfo], None]:
    async for page in each_page(store, below, delimiter=False, check=check):
        if page.objects:
            yield list(page.objects)


async def _sizes(store: ObjectStore, after: str, last: str) -> dict[str, int]:
    """Sizes of the objects behind ``after``, up to and with ``last``."""
    found: dict[str, int] = {}
    async with aclosing(each_page(store, "", delimiter=False, start_after=after or None)) as pages:
        async for page in pages:
            found |= {info.key: info.size for info in page.objects}
            if page.objects and page.objects[-1].key >= last:
                break
    return found
