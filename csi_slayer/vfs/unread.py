"""What only an object's metadata can tell, and reading it ahead of who looks along a directory."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Mapping

from csi_slayer.catalog import ROOT, Catalog, Inode, Mark, Name
from csi_slayer.content.content import Content
from csi_slayer.content.options import Live
from csi_slayer.errors import ObjectNotFound, SlayerError
from csi_slayer.scheduling.scan import Scan

AHEAD = 128
"""Objects whose metadata is being read ahead at once, at most."""

KNOWN_WAIT = 5.0
"""Seconds that the first change of an object waits for its metadata."""

VERSIONS = 8
"""Versions of an object, each replaced while it was asked about, after which none is learned."""


class Unread:
    """An empty object may be a symlink, a fifo or a socket. With POSIX attributes (``posix``) the
    metadata of each object counts, a directory's mark included.

    :meth:`close` ends what is being read ahead.
    """

    def __init__(self, catalog: Catalog, content: Content, live: Live, *, posix: bool) -> None:
        self._catalog = catalog
        self._content = content
        self._live = live
        self._posix = posix
        self._looks = Scan()
        self._ahead: dict[int, asyncio.Task[None]] = {}

    def is_unread(self, inode: Inode | Name) -> bool:
        """Whether only the object's metadata can tell what the inode is."""
        if stat.S_ISDIR(inode.mode):
            return (
                self._posix
                and isinstance(inode, Inode)
                and not inode.flags & Mark.ATTRS_KNOWN
                and inode.ino != ROOT
            )
        return bool(inode.is_unread) and (self._posix or inode.size == 0)

    async def read(self, inode: Inode) -> Inode:
        """The inode with what its object's metadata tells."""
        if not self.is_unread(inode):
            return inode
        if (task := self._ahead.get(inode.ino)) is not None:
            await asyncio.wait([task])
            inode = await self._catalog.get(inode.ino)
            if not self.is_unread(inode):
                return inode
        return await self._read(inode)

    async def known(self, inode: Inode, *, away: bool) -> Inode:
        """The inode with all that its object's metadata tells, before it is changed here: what is
        stored with the change replaces it. While the store is ``away``, or does not answer at once,
        the defaults do."""
        if not inode.is_unread or away:
            return inode
        try:
            async with asyncio.timeout(KNOWN_WAIT):
                return await self._read(inode)
        except (SlayerError, TimeoutError):
            return await self._catalog.get(inode.ino)

    async def look(self, inode: Inode) -> Inode:
        """As :meth:`read`, for who may look at one name of a directory after the other."""
        if not self.is_unread(inode):
            return inode
        if self._live.prefetch:
            await self._read_ahead(inode)
        return await self.read(inode)

    async def _read_ahead(self, inode: Inode) -> None:
        after, count = self._looks.opened(inode.parent, inode.place)
        count = min(count, AHEAD - len(self._ahead))
        if count <= 0:
            return
        children = await self._catalog.children(inode.parent, after, count)
        for _name, child in children:
            if self.is_unread(child) and child.ino not in self._ahead:
                task = asyncio.get_running_loop().create_task(self._try(child))
                self._ahead[child.ino] = task
        if children:
            self._looks.reached(inode.parent, children[-1][1].place)

    async def _try(self, inode: Inode) -> None:
        try:
            await self._read(inode)
        except SlayerError:
            pass  # raised to whoever asks for this name
        finally:
            del self._ahead[inode.ino]

    async def _read(self, inode: Inode) -> Inode:
        now = inode
        for _ in range(VERSIONS):
            values = await self._values(inode)
            now = await self._catalog.get(inode.ino)
            if values is None:
                break
            if now.etag == inode.etag and (now.stage is not None or now.stamp == inode.stamp):
                await self._content.learn(inode.ino, values)
                return await self._catalog.get(inode.ino)
            if not now.is_unread:
                break
            inode = now  # another version meanwhile: perhaps these are not its attributes
        return now

    async def _values(self, inode: Inode) -> Mapping[str, str] | None:
        """The metadata of the object, None if there is none."""
        if inode.is_dir:
            path = await self._catalog.path(inode.ino)
            if path is None:
                return None
            key = path + "/"
        else:
            key = (await self._content.objects.source_of(inode)).key
        try:
            return (await self._content.store.head(key)).metadata or {}
        except ObjectNotFound:
            return {} if inode.is_dir else None  # it exists by what is in it alone

    async def close(self) -> None:
        tasks = list(self._ahead.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
