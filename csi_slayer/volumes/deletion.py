"""Deleting all objects of a store: of a volume, a snapshot, an ephemeral volume.

Nothing is remembered between calls: what is left is what a listing shows. So a deletion of
millions of keys goes on where it was when its process died.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from csi_slayer.errors import StoreError, VolumeBusy
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.paging import each_page
from csi_slayer.volumes.bounded import for_each
from csi_slayer.volumes.jobs import Progress

# Listings of everything that may follow each other until one finds nothing.
_ROUNDS = 5


async def delete_content(
    store: ObjectStore, progress: Progress, parallel: int, check: Callable[[], None]
) -> None:
    """Delete every object and unfinished upload of ``store``, which is one prefix or one bucket
    of a volume's own.

    ``parallel``: requests at a time. ``check`` is called before each and raises when this process
    must not go on. Raises VolumeBusy if objects keep appearing, StoreError if some cannot be
    deleted.
    """
    for _ in range(_ROUNDS):
        uploads = await store.list_multipart("")
        turns = asyncio.Semaphore(parallel)

        async def abort(key: str, upload_id: str, turns: asyncio.Semaphore = turns) -> None:
            async with turns:
                check()
                await store.abort_multipart(key, upload_id)

        await asyncio.gather(*(abort(upload.key, upload.upload_id) for upload in uploads))
        if not await _delete_objects(store, progress, parallel, check) and not uploads:
            return
    raise VolumeBusy(
        f"{progress.what}: objects keep appearing: something still writes there; end it and ask"
        " again"
    )


async def _delete_objects(
    store: ObjectStore, progress: Progress, parallel: int, check: Callable[[], None]
) -> bool:
    """One pass over everything; whether there was anything."""
    any_found = False

    async def pages() -> AsyncGenerator[list[str], None]:
        nonlocal any_found
        async for page in each_page(store, "", delimiter=False, check=check):
            if page.objects:
                any_found = True
                yield [info.key for info in page.objects]

    async def delete(keys: list[str]) -> None:
        check()
        failed = await store.delete_many(keys)
        progress.add(len(keys) - len(failed))
        if failed:
            key, reason = next(iter(failed.items()))
            raise StoreError(
                f"{len(failed)} objects cannot be deleted, the first is {key!r}: {reason}"
            )

    # A page is one request of up to 1,000 keys.
    await for_each(pages(), delete, max(1, parallel // 4))
    return any_found
