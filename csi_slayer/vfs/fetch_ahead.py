"""Fetching small files ahead of who opens those of a directory one after the other."""

from __future__ import annotations

from csi_slayer.cache import SMALL
from csi_slayer.catalog import Catalog, Inode
from csi_slayer.content.content import Content
from csi_slayer.content.options import Live
from csi_slayer.scheduling.scan import Scan
from csi_slayer.vfs.ahead import ListAhead

BEYOND = 64
"""Files fetched ahead at once in the directories that a walk comes to next."""


class FetchAhead:
    """``listed`` notices walks through trees, of which the next directories are then listed."""

    def __init__(self, catalog: Catalog, content: Content, listed: ListAhead, live: Live) -> None:
        self._catalog = catalog
        self._content = content
        self._listed = listed
        self._live = live
        self._scan = Scan()

    def listing(self, ino: int, first: int) -> None:
        """Somebody reads the names of a directory; ``first`` is the place of the first one."""
        self._scan.listed(ino, first)

    async def opened(self, inode: Inode) -> None:
        """A small file is opened. If somebody walks the directory, have its next ones fetched."""
        if not self._live.prefetch:
            return
        after, count = self._scan.opened(inode.parent, inode.place)
        if count:
            children = await self._catalog.children(inode.parent, after, count)
            wanted = [child for _name, child in children]
            if after == inode.place:
                wanted.insert(0, inode)  # the first of a walk: not behind those that come after it
            last = await self._content.prefetch(wanted)
            if last is not None:
                self._scan.reached(inode.parent, last)
            if len(children) < count:
                await self._beyond(inode.parent)

    async def _beyond(self, ino: int) -> None:
        """All files of a directory are read, or fetched ahead: go on in those that come next."""
        left = BEYOND
        async for directory in self._listed.following(ino, self._content.smalls.room):
            children = await self._catalog.children(directory.ino, 0, left)
            await self._content.prefetch([child for _name, child in children])
            sizes = [child.size for _name, child in children if child.is_file]
            self._listed.fetched(directory, sum(size for size in sizes if size <= SMALL))
            left -= len(children)
            if left <= 0:
                break
