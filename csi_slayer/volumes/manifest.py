"""What a snapshot or clone consists of: rounds of pages of up to 1,000 entries, below a prefix.

A round is what one listing of the source found: the first has everything, each further one what
differs from what those before it say together. Each page is written when it is listed, and again
when its objects have been copied: so an interrupted copy goes on at the first page that does not
say ``done``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

from pydantic import BaseModel, ConfigDict, ValidationError

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import ObjectInfo, ObjectStore
from csi_slayer.store.paging import each_page

MANIFEST = "manifest/"
DATA = "data/"

LISTED, CHANGED, MISSING, GONE, DROPPED = "", "changed", "missing", "gone", "dropped"
"""Of an object: copied as it was listed; copied as it was later; not there any more in a later
listing, the copy stays; not there when it was to be copied; the copy was removed since two
listings in a row did not have it."""

PRESENT = frozenset((LISTED, CHANGED, MISSING))
"""Notes of what there is a copy of."""


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


def page_key(number: int, page: int) -> str:
    """Key of a round's page; both are numbered from 0."""
    return f"{_round_prefix(number)}{page:08d}.json"


def _round_prefix(number: int) -> str:
    return f"{MANIFEST}{number:03d}/"


def entries_of(objects: Sequence[ObjectInfo]) -> list[Entry]:
    return [
        Entry(key=info.key, size=info.size, etag=info.etag, mtime_ns=info.mtime_ns)
        for info in objects
    ]


async def write_page(store: ObjectStore, number: int, at: int, page: Page) -> None:
    await store.put(page_key(number, at), page.model_dump_json(exclude_defaults=True).encode())


async def read_page(store: ObjectStore, number: int, at: int) -> Page:
    """Raises ObjectNotFound, StoreIntegrityError."""
    _, body = await store.get(page_key(number, at))
    try:
        return Page.model_validate_json(body)
    except ValidationError:
        raise StoreIntegrityError(
            f"{page_key(number, at)} of the copy is damaged: delete the snapshot or volume that is"
            " being made, make another"
        ) from None


async def count_rounds(store: ObjectStore) -> int:
    """How many rounds have been begun."""
    return sum([len(page.prefixes) async for page in each_page(store, MANIFEST)])


async def count_pages(store: ObjectStore, number: int) -> int:
    """How many pages of a round have been written."""
    count = 0
    async for page in each_page(store, _round_prefix(number), delimiter=False):
        keys = [info.key for info in page.objects]
        count += sum(key == page_key(number, count + i) for i, key in enumerate(keys))
    return count


async def entries(store: ObjectStore, rounds: int, after: str = "") -> AsyncGenerator[Entry, None]:
    """What the first ``rounds`` say of each key behind ``after``, in order; the latest word counts.

    One page of each round is in memory.
    """
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(aclosing(_entries_of_round(store, number, after)))
            for number in reversed(range(rounds))
        ]
        heads = [await anext(stream, None) for stream in streams]
        while found := [head for head in heads if head is not None]:
            first = min(found, key=lambda entry: entry.key)  # of equal ones that of the latest
            yield first
            for index, head in enumerate(heads):
                if head is not None and head.key == first.key:
                    heads[index] = await anext(streams[index], None)


async def _entries_of_round(
    store: ObjectStore, number: int, after: str
) -> AsyncGenerator[Entry, None]:
    for at in range(await count_pages(store, number)):
        for entry in (await read_page(store, number, at)).entries:
            if entry.key > after:
                yield entry
