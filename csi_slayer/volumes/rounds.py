"""Copies of a volume that may be in use: what a snapshot or a clone is made with.

One listing is not enough: a file that is renamed meanwhile is gone under its old name when that is
to be copied, and its new name was not there, or had been passed, when the volume was listed. So the
source is listed again and again: each round copies what is new or has changed, until a listing
brings nothing, or, in a volume that never rests, until after the third one at the earliest a round
found everything that it had listed. Then every object that was there in the beginning has been
copied, if it was not changed, and renamed once at most. A copy is removed only when two listings in
a row did not have its key: the second one began after the rename that the first one fell into.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from csi_slayer.errors import KeyObstructed, VolumeBusy
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.paging import each_page
from csi_slayer.volumes.bounded import for_each
from csi_slayer.volumes.copying import copy_object
from csi_slayer.volumes.jobs import Progress
from csi_slayer.volumes.manifest import (
    CHANGED,
    DROPPED,
    GONE,
    LISTED,
    MISSING,
    PRESENT,
    Entry,
    Page,
    count_pages,
    count_rounds,
    entries,
    entries_of,
    read_page,
    write_page,
)

PAGE = 1000
"""Entries of a page."""

PAGE_BYTES = 64 << 30
"""Of the objects of a page: what is copied again at most after an interruption."""

AT_ONCE = 6
"""Rounds that one call begins; the next one goes on."""

MOST = 100
"""Rounds of one copy: a page of each is in memory."""

# Number of the round, from 0, that may be the last although it found something.
_SETTLED = 2


class Rounds:
    """The copying of all objects of ``origin`` to ``target``, with ``below`` before their keys.

    ``notes``: the store of the manifest. ``check`` is called before each step and raises when this
    process must not go on.
    """

    def __init__(
        self,
        origin: ObjectStore,
        target: ObjectStore,
        below: str,
        notes: ObjectStore,
        progress: Progress,
        parallel: int,
        check: Callable[[], None],
    ) -> None:
        self._origin = origin
        self._target = target
        self._below = below
        self._notes = notes
        self._progress = progress
        self._parallel = parallel
        self._check = check

    async def run(self) -> tuple[int, int]:
        """Number and bytes of the objects that there are copies of in the end.

        Raises VolumeBusy if the volume changed too fast, or StoreError; in each case a later call
        goes on.
        """
        begun = await count_rounds(self._notes)
        end = min(begun + AT_ONCE, MOST)
        for number in range(max(begun - 1, 0), end):
            pages = await self._list(number)
            if not pages:
                return await self._total(number)
            lost, differed = await self._copy(number, pages)
            if (number and not differed) or (number >= _SETTLED and not lost):
                return await self._total(number + 1)
        what = "files are renamed or removed there faster than they can be copied"
        if end < MOST:
            raise VolumeBusy(f"{self._progress}: {what}; it goes on: ask again")
        raise VolumeBusy(
            f"{self._progress}: {what}: stop the program that does so, delete what is being made"
            " and make it again"
        )

    async def _list(self, number: int) -> int:
        """Write the pages of a round that are missing; how many it has, 0 if nothing differs."""
        count, after = await count_pages(self._notes, number), ""
        if count:
            page = await read_page(self._notes, number, count - 1)
            if page.last:
                return count
            after = page.entries[-1].key
        batch: list[Entry] = []
        size = 0
        async with aclosing(self._differing(number, after)) as differing:
            async for entry in differing:
                if len(batch) >= PAGE or size >= PAGE_BYTES:
                    await self._write(number, count, Page(entries=batch, last=False))
                    count, batch, size = count + 1, [], 0
                batch.append(entry)
                size += entry.size
        if not batch and not count and number:
            return 0
        await self._write(number, count, Page(entries=batch, last=True))
        return count + 1

    async def _write(self, number: int, at: int, page: Page) -> None:
        self._check()
        await write_page(self._notes, number, at, page)

    async def _differing(self, number: int, after: str) -> AsyncGenerator[Entry, None]:
        """What a listing of now says of keys behind ``after`` that the rounds before do not."""
        async with (
            aclosing(self._listed(after)) as listed,
            aclosing(entries(self._notes, number, after)) as known,
        ):
            there, before = await anext(listed, None), await anext(known, None)
            while there is not None or before is not None:
                if before is None or (there is not None and there.key < before.key):
                    assert there is not None
                    yield there
                    there = await anext(listed, None)
                elif there is None or before.key < there.key:
                    if before.note in PRESENT:
                        note = DROPPED if before.note == MISSING else MISSING
                        yield before.model_copy(update={"note": note})
                    before = await anext(known, None)
                else:
                    if before.note not in (LISTED, CHANGED) or before.etag != there.etag:
                        yield there
                    there, before = await anext(listed, None), await anext(known, None)

    async def _listed(self, after: str) -> AsyncGenerator[Entry, None]:
        pages = each_page(
            self._origin, "", delimiter=False, start_after=after or None, check=self._check
        )
        async for page in pages:
            for entry in entries_of(page.objects):
                yield entry

    async def _copy(self, number: int, pages: int) -> tuple[bool, bool]:
        """Copy what is in the pages that are not done. Whether something was lost, that is, gone
        before it could be copied; and whether there was anything but copies to remove."""
        lost = differed = False
        for at in range(pages):
            self._check()
            page = await read_page(self._notes, number, at)
            if not page.done:
                page = await self._copy_page(page)
                await self._write(number, at, page)
            found = {entry.note for entry in page.entries}
            lost = lost or GONE in found
            differed = differed or bool(found - {DROPPED})
        return lost, differed

    async def _copy_page(self, page: Page) -> Page:
        copied: dict[str, Entry] = {}

        async def one(entry: Entry) -> None:
            self._check()
            copied[entry.key] = await self._copy_entry(entry)

        async def all_of_it() -> AsyncGenerator[Entry, None]:
            for entry in page.entries:
                yield entry

        await for_each(all_of_it(), one, self._parallel)
        return Page(entries=[copied[e.key] for e in page.entries], last=page.last, done=True)

    async def _copy_entry(self, entry: Entry) -> Entry:
        target = self._below + entry.key
        if entry.note == MISSING:
            return entry
        if entry.note == DROPPED:
            await self._target.delete(target)
            return entry
        try:
            made = await copy_object(self._origin, entry.key, self._target, target, entry.etag)
        except KeyObstructed:
            # A file took the place of a directory, or the other way round, and its copy is still
            # in the way: it goes with one of the next rounds.
            return entry.model_copy(update={"note": GONE})
        if made is None:
            # An earlier round, or a process that was killed, may have copied it.
            await self._target.delete(target)
            return entry.model_copy(update={"note": GONE})
        self._progress.add(1, made.size)
        if made.etag == entry.etag:
            return entry
        return entry.model_copy(update={"size": made.size, "etag": made.etag, "note": CHANGED})

    async def _total(self, rounds: int) -> tuple[int, int]:
        objects = size = 0
        async with aclosing(entries(self._notes, rounds)) as known:
            async for entry in known:
                if entry.note in PRESENT:
                    objects += 1
                    size += entry.size
        return objects, size
