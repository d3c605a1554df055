"""Listing ahead for who walks a tree: each directory is a request, and a walker waits for one after
the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content.options import Live
from csi_slayer.vfs.refresh import Refresher

WATCHED = 256
"""Directories whose subdirectories' readers are remembered."""

START, MAXIMUM = 2, 16
"""Directories listed ahead: of the second one that is read in a row, and most."""

AT_ONCE = 16
"""Listings ahead under way, of a volume."""

NEAR = 256
"""Names among which the next directories are looked for."""

SKIPPED = 2
"""Directories that a walker may leave out from one to the next."""


class ListAhead:
    """Notices that the directories in a directory are read in the order in which it lists them, and
    has those listed that come next, up to a page of each."""

    def __init__(self, catalog: Catalog, refresh: Refresher, live: Live) -> None:
        self._catalog = catalog
        self._refresh = refresh
        self._live = live
        self._seen: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()

    async def entered(self, directory: Inode) -> None:
        """Somebody begins to read this directory."""
        last, width = self._seen.pop(directory.parent, (None, 0))
        if not self._live.prefetch or directory.ino == directory.parent:
            return
        if last is not None and last >= directory.place:
            self._remember(directory.parent, (directory.place, 0))
            return
        rows = await self._catalog.children(directory.parent, last or 0, NEAR)
        siblings = [inode for _name, inode in rows if inode.is_dir]
        inos = [inode.ino for inode in siblings[: SKIPPED + 1]]
        if last is None or directory.ino not in inos:
            self._remember(directory.parent, (directory.place, 0))
            return
        width = min(MAXIMUM, 2 * width or START)
        self._remember(directory.parent, (directory.place, width))
        self._remember(directory.ino, (0, width // 2))  # what is in it comes next
        first = inos.index(directory.ino) + 1
        for inode in siblings[first : first + width]:
            await self._list(inode)

    def _remember(self, parent: int, state: tuple[int, int]) -> None:
        self._seen[parent] = state
        if len(self._seen) > WATCHED:
            self._seen.popitem(last=False)

    async def _list(self, directory: Inode) -> None:
        if len(self._running) >= AT_ONCE or self._refresh.away or directory.flags & Mark.LARGE:
            return
        known = self._refresh.is_fresh(directory.listed_ns)
        if known or self._refresh.running(directory.ino) is not None:
            return
        listing = await self._refresh.begin(directory, pages=1)
        assert listing.task is not None
        self._running.add(listing.task)
        listing.task.add_done_callback(self._running.discard)
