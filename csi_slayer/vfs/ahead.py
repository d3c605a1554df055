"""Listing ahead for who walks a tree: each directory is a request, and a walker waits for one after
the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content.options import Live
from csi_slayer.vfs.refresh import Refresher

WATCHED = 256
"""Directories whose subdirectories' readers are remembered."""

START, MAXIMUM = 2, 16
"""Directories listed ahead: of the second one that is read in a row, and most."""

AT_ONCE = 16
"""Listings ahead under way, of a volume."""

SHORTEST = 1.0
"""Seconds for which names must be believed: else a listing is of no use to who comes later."""

NEAR, FEW = 256, 32
"""Names among which the next directories are looked for, and those of one look."""

SKIPPED = 2
"""Directories that a walker may leave out from one to the next."""


class _Walk(NamedTuple):
    """Through the directories in a directory: the place of the one read last, how many are to be
    listed ahead, the place up to which they were, and the places of those whose files were fetched
    ahead, with the bytes of each."""

    last: int | None = None
    width: int = 0
    listed: int = 0
    fetched: tuple[tuple[int, int], ...] = ()


class ListAhead:
    """Notices that the directories in a directory are read in the order in which it lists them, and
    has those listed that come next, once each and up to a page."""

    def __init__(self, catalog: Catalog, refresh: Refresher, live: Live) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._live = live
        self._walks: OrderedDict[int, _Walk] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    async def entered(self, directory: Inode) -> None:
        """Somebody begins to read this directory."""
        if not self._live.prefetch or self._live.metadata_ttl < SHORTEST:
            return
        if directory.ino == directory.parent:
            return
        walk = self._walks.pop(directory.parent, _Walk())
        if walk.last == directory.place:  # of an empty one the end is all that comes after ".."
            self._remember(directory.parent, walk)
            return
        siblings = await self._next(walk, directory)
        if siblings is None:
            self._remember(directory.parent, _Walk(directory.place))
            return
        width = min(MAXIMUM, 2 * walk.width or START)
        if directory.place <= walk.listed and not self._refresh.is_fresh(directory.listed_ns):
            if self._refresh.running(directory.ino) is None:
                width = START  # listed in vain: the walker takes longer than names are believed
        listed = max(walk.listed, directory.place)
        for inode in siblings[:width]:
            if inode.place > listed:
                if not await self._list(inode):
                    break
                listed = inode.place
        self._remember(directory.parent, _Walk(directory.place, width, listed, walk.fetched))
        self._remember(directory.ino, _Walk(0, width // 2))  # what is in it comes next

    async def following(self, ino: int, room: int) -> AsyncIterator[Inode]:
        """The directories that a walk comes to after this one, whose names are known by now and
        whose files were not fetched ahead, while what was is not yet ``room`` bytes."""
        directory = await self._catalog.find(ino)
        walk = None if directory is None else self._walks.get(directory.parent)
        if directory is None or walk is None or not walk.width or walk.last != directory.place:
            return
        after = max(directory.place, walk.fetched[-1][0] if walk.fetched else 0)
        async for inode in self._directories(directory.parent, after):
            walk = self._walks.get(directory.parent)
            known = self._refresh.is_fresh(inode.listed_ns)
            if walk is None or not known or inode.place > walk.listed:
                return
            if sum(size for place, size in walk.fetched if place > directory.place) >= room:
                return
            yield inode

    def fetched(self, directory: Inode, size: int) -> None:
        """So many bytes of files in there are fetched ahead."""
        walk = self._walks.get(directory.parent)
        if walk is not None:
            before = [it for it in walk.fetched if it[0] > (walk.last or 0)]
            fetched = (*before, (directory.place, size))
            self._walks[directory.parent] = walk._replace(fetched=fetched)

    async def _next(self, walk: _Walk, directory: Inode) -> list[Inode] | None:
        """The directories behind this one; None where it does not follow on the last."""
        if walk.last is None or walk.last >= directory.place:
            return None
        found: list[Inode] = []
        async for inode in self._directories(directory.parent, walk.last):
            found.append(inode)
            if len(found) == SKIPPED + 1 + MAXIMUM:
                break
        inos = [inode.ino for inode in found[: SKIPPED + 1]]
        return found[inos.index(directory.ino) + 1 :] if directory.ino in inos else None

    async def _directories(self, parent: int, after: int) -> AsyncIterator[Inode]:
        """Those in a directory from a place on, in their order."""
        for _ in range(NEAR // FEW):
            rows = await self._catalog.children(parent, after, FEW)
            for _name, inode in rows:
                if inode.is_dir:
                    yield inode
            if len(rows) < FEW:
                return
            after = rows[-1][1].place

    def _remember(self, parent: int, walk: _Walk) -> None:
        self._walks[parent] = walk
        if len(self._walks) > WATCHED:
            self._walks.popitem(last=False)

    async def _list(self, directory: Inode) -> bool:
        """Whether it is listed, is being listed, or need not be."""
        known = self._refresh.is_fresh(directory.listed_ns) or directory.flags & Mark.LARGE
        if known or self._refresh.running(directory.ino) is not None:
            return True
        if len(self._running) >= AT_ONCE or self._refresh.away:
            return False
        listing = await self._refresh.begin(directory, pages=1)
        assert listing.task is not None
        self._running.add(listing.task)
        listing.task.add_done_callback(self._running.discard)
        return True
