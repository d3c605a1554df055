"""What a snapshot consists of: pages of up to 1,000 entries, below the snapshot's prefix.

First everything is listed, which is quick and makes the snapshot as near to one moment as a bucket
allows; then page after page is copied, and each page is written again with what was copied. So an
interrupted snapshot goes on at the first page that does not say ``done``.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ObjectInfo, ObjectStore

MANIFEST = "manifest/"
DATA = "data/"

LISTED, CHANGED, GONE = "", "changed", "gone"
"""Whether an object was copied as it was listed, as it was later, or not at all, since it was
deleted meanwhile."""


class Entry(BaseModel):
    """One object of the volume; ``size`` and ``etag`` are those of the copied version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    size: int
    etag: str
    mtime_ns: int
    note: str = LISTED


class Page(BaseModel):
    """``last``: no page follows. ``done``: its objects have been copied."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    entries: list[Entry]
    last: bool
    done: bool = False


def page_key(number: int) -> str:
    """Key, in the snapshot's store, of a page; pages are numbered from 0."""
    return f"{MANIFEST}{number:08d}.json"


def entries_of(objects: Sequence[ObjectInfo]) -> list[Entry]:
    return [
        Entry(key=info.key, size=info.size, etag=info.etag, mtime_ns=info.mtime_ns)
        for info in objects
    ]


async def write_page(store: ObjectStore, number: int, page: Page) -> None:
    await store.put(page_key(number), page.model_dump_json(exclude_defaults=True).encode())


async def read_page(store: ObjectStore, number: int) -> Page:
    """Raises ObjectNotFound, StoreIntegrityError."""
    _, body = await store.get(page_key(number))
    try:
        return Page.model_validate_json(body)
    except ValidationError:
        raise StoreIntegrityError(
            f"{page_key(number)} of the snapshot is damaged: delete the snapshot, make another"
        ) from None


async def count_pages(store: ObjectStore) -> int:
    """How many pages have been written."""
    count, token = 0, None
    while True:
        listed = await store.list_page(MANIFEST, delimiter=False, token=token)
        count += sum(info.key == page_key(count + i) for i, info in enumerate(listed.objects))
        token = listed.token
        if token is None:
            return count
