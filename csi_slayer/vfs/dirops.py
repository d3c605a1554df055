"""Reading directories."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from csi_slayer.catalog import Inode, Name
from csi_slayer.errors import FsError, SlayerError
from csi_slayer.vfs.base import Base
from csi_slayer.vfs.pages import PAGE
from csi_slayer.vfs.shown import AT_ONCE, PAUSE
from csi_slayer.vfs.types import DirItem, Opened, OpenFlags, Request, StatFs

log = structlog.get_logger(__name__)

T = TypeVar("T")

_DOT, _DOTDOT, _SHIFT = 1, 2, 2
"""Cookies of "." and ".."; a name's is its place in the catalog plus 2."""

_UNKNOWN = 0
"""Mode of what only its object's metadata can tell: the reader has to look it up."""

NOMINAL_BYTES = 1 << 50
"""What ``df`` shows as the size of a volume without a quota: 1 PiB."""

BLOCK = 4096

LISTINGS_BEGUN = 8
"""Times that a reader has a directory listed that was never listed to its end."""

LOOKED_AT, LOOK_PAUSE = 1024, 0.01
"""Inode numbers among which directories are looked for at once after a take-over, which takes about
a millisecond, and the seconds in between."""

SETTLED_AT_ONCE = 256
"""Keys that a sync of a directory looks for at once."""

FAILED_PAUSE = 10.0
"""Seconds until the catalog is asked again for what it could not tell."""


class DirOps(Base):
    """See :class:`csi_slayer.vfs.operations.Operations`."""

    async def opendir(self, req: Request, ino: int) -> Opened:
        if ino in self.removed:  # somebody's working directory: the kernel finds it empty
            return Opened(0, OpenFlags.NONE)
        directory = await self.directory(ino)
        flags = OpenFlags.CACHE_DIR
        stale = self._stale_pages.take(ino)
        if not stale and self.refresh.is_fresh(directory.listed_ns):
            # The kernel's own copy of the names is as good as our table.
            flags |= OpenFlags.KEEP_CACHE
        return Opened(0, flags)

    async def releasedir(self, req: Request, ino: int, fh: int) -> None:
        return None

    async def readdir(
        self, req: Request, ino: int, fh: int, cookie: int, limit: int, plus: bool
    ) -> Sequence[DirItem]:
        directory = await self.directory(ino)
        if cookie <= _DOTDOT:
            await self._ahead.entered(directory)
            await self._begin(directory)
            directory = await self.directory(ino)
        items: list[DirItem] = []
        if cookie < _DOT:
            items.append(self._dot(b".", directory, _DOT))
        if cookie < _DOTDOT:
            # Of one that others removed, what was above it may be gone for good.
            parent = await self.catalog.find(directory.parent) or directory
            items.append(self._dot(b"..", parent, _DOTDOT))
        after = max(0, cookie - _SHIFT)
        most = max(1, limit - len(items))
        if plus:
            children = await self._rows(directory, self.catalog.children, after, most)
            items.extend(self._item(name, inode, directory) for name, inode in children)
            first = children[0][1].place if children else None
        else:
            found = await self._rows(directory, self.catalog.names, after, most)
            items.extend(self._bare_item(name) for name in found)
            first = found[0].place if found else None
        if after == 0 and first is not None:
            self._fetch_ahead.listing(ino, first)
        if self.kernel.lists_unseen:
            await self._note_shown(ino)
        return items

    async def _note_shown(self, ino: int) -> None:
        directory, listing = await self.catalog.find(ino), self.refresh.running(ino)
        listed_ns = 0 if directory is None else directory.listed_ns
        if not listed_ns and listing is not None:
            listed_ns = listing.since_ns
        self._shown.note(ino, self.refresh.remaining(listed_ns))

    async def drop_all_shown(self) -> None:
        """After a take-over: nobody knows which names the kernel has, nor what it was about to be
        told of them. It may have any that were listed."""
        for first in range(0, self.catalog.next_ino, LOOKED_AT):
            listed = await self._listed_among(range(first, first + LOOKED_AT))
            told = 0
            while told < len(listed):
                if self.kernel.invalidate_inode(listed[told]):
                    told += 1
                else:
                    await asyncio.sleep(PAUSE)
            await asyncio.sleep(max(LOOK_PAUSE, len(listed) * PAUSE / AT_ONCE))

    async def _listed_among(self, inos: range) -> list[int]:
        """Asked until there is an answer: nobody else would tell the kernel of those."""
        while True:
            try:
                return await self.catalog.listed(inos)
            except SlayerError as error:
                log.warning("looking for listed directories failed", error=str(error))
                await asyncio.sleep(FAILED_PAUSE)

    @staticmethod
    def _dot(name: bytes, inode: Inode, cookie: int) -> DirItem:
        return DirItem(name, inode.ino, inode.mode, cookie, None)

    async def _begin(self, directory: Inode) -> None:
        """See that the names will be fresh. A first listing is read while it is under way, also
        one after the first page; a later one first ends, for it may take names away."""
        if self.refresh.is_fresh(directory.listed_ns):
            return
        if directory.listed_ns == 0:
            oldest = await self.catalog.oldest(directory.ino, PAGE)
            if oldest is None or self.refresh.is_fresh(oldest):
                await self.refresh.begin(directory)
                return
        await self.refresh.ensure_listed(directory, stale=True)

    async def _rows(
        self,
        directory: Inode,
        fetch: Callable[[int, int, int], Awaitable[list[T]]],
        after: int,
        limit: int,
    ) -> list[T]:
        """What ``fetch`` finds; of a listing under way that is waited for. Raises what ended a
        first listing, and FsError(EBUSY) for a directory that moves whenever it is listed. Of a
        later listing that the store does not answer, what is known is all."""
        begun, known = 0, directory.listed_ns > 0
        while True:
            rows = await fetch(directory.ino, after, limit)
            listing = self.refresh.running(directory.ino)
            if rows or (known and self.refresh.away):
                return rows
            if listing is not None:
                await self.refresh.more(listing, known=known)
                # The end of the listing may have come with the last names.
                await asyncio.sleep(0)
                continue
            now = await self.catalog.find(directory.ino)
            if now is None or now.listed_ns or await self.catalog.path(now.ino) is None:
                return rows
            # The first listing failed, or its worker died: these were not all.
            if begun == LISTINGS_BEGUN:
                raise FsError(errno.EBUSY, "others move the directory whenever it is listed")
            begun += 1
            await self.refresh.ensure_listed(now)

    def _bare_item(self, name: Name) -> DirItem:
        mode = _UNKNOWN if self.unread.is_unread(name) else name.mode
        return DirItem(name.name.encode(), name.ino, mode, name.place + _SHIFT, None)

    def _item(self, name: str, inode: Inode, directory: Inode) -> DirItem:
        cookie = inode.place + _SHIFT
        if self.unread.is_unread(inode):
            return DirItem(name.encode(), inode.ino, _UNKNOWN, cookie, None)
        entry = self.entry(inode, directory)
        return DirItem(name.encode(), inode.ino, inode.mode, cookie, entry)

    async def fsyncdir(self, req: Request, ino: int, fh: int, datasync: bool) -> None:
        """Return when the store has what was made, renamed and removed directly in here, of a
        directory that was renamed or removed all that was in it; with policy writeback, when the
        journal of it survives a power loss."""
        if self.live.durability == "writeback":
            await self.catalog.synced()
            return
        path = await self.catalog.path(ino)
        if path is None:
            return
        prefix = path + "/" if path else ""
        # No further, or it would never end while somebody makes one after the other below.
        after, last = prefix, await self.catalog.last_pending_in(prefix)
        while keys := await self.catalog.pending_until(last, after, SETTLED_AT_ONCE):
            after = keys[-1]
            for key in keys:
                if self._is_synced(key[len(prefix) :], await self.catalog.resolve(key)):
                    await self.content.reconciler.settle(key)
            await asyncio.sleep(0)
        if path:
            await self.content.reconciler.settle(path + "/")

    def _is_synced(self, below: str, inode: Inode | None) -> bool:
        """Whether a sync of a directory waits for what is pending for this path below it. Of files
        that are deeper, for those that are to be moved, and for links and the like: nobody knows
        which of these were in a directory that was renamed before they were stored."""
        if inode is None or inode.is_dir:
            return True
        other = "/" in below and inode.stage is not None and inode.origin is None
        return not other and not self.opened.is_writing(inode.ino)

    async def statfs(self, req: Request, ino: int) -> StatFs:
        size = self.live.quota or NOMINAL_BYTES
        free = max(0, size - self.catalog.used_bytes)
        files = 1 << 40
        return StatFs(
            -(-size // BLOCK), free // BLOCK, free // BLOCK, files, files,
            BLOCK, BLOCK, 255,
        )  # fmt: skip
