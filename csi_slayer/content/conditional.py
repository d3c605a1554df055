"""Writes that replace only what we know, and what refuses one although nobody else was faster."""

from __future__ import annotations

import errno
import sys
from collections.abc import Awaitable, Callable

from csi_slayer.catalog import Catalog, Inode, Mark, Pending
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.races import Races
from csi_slayer.content.small import Source
from csi_slayer.errors import FsError, KeyObstructed, ObjectNotFound, PreconditionFailed
from csi_slayer.store.base import ObjectInfo

OpenClean = Callable[[Source], CleanFile]


class Conditional:
    """Of one volume."""

    def __init__(
        self, catalog: Catalog, races: Races, opened: OpenInodes, open_clean: OpenClean
    ) -> None:
        self._catalog = catalog
        self._races = races
        self._opened = opened
        self._open_clean = open_clean

    async def write(
        self,
        inode: Inode,
        row: Pending,
        send: Callable[[str | None], Awaitable[ObjectInfo]],
        mtime_ns: int = 0,
    ) -> ObjectInfo:
        """``send`` with what is expected there. What refuses it may be what a worker that died had
        written for the same row: then it is replaced in turn, unless it is newer than staged bytes
        of this mtime. Else the race is lost."""
        try:
            return await send(row.expect)
        except (PreconditionFailed, ObjectNotFound, FsError) as error:
            # ESTALE: the object under a partial staged copy changed.
            if isinstance(error, FsError) and error.errno != errno.ESTALE:
                raise
            found = await self._races.found(row.key)
            if found is not None and is_ours(row, found) and not is_older(inode, mtime_ns, found):
                await self._recognise(inode, row, found)
                return await send(found.etag)
            if found is not None and found.etag == row.expect and isinstance(error, ObjectNotFound):
                # Nobody has changed it: somebody, as a lifecycle rule does, has ended our upload;
                # or what is changed in part had another name, and is gone.
                if not await self._is_base_another(inode, row):
                    return await send(row.expect)
            if found is None and not isinstance(error, FsError):
                # Deleted by somebody while we changed it: ours is the only version, write it anew.
                await self._catalog.pending_expect(row.key, "")
                try:
                    return await send("")
                except (PreconditionFailed, ObjectNotFound) as again:
                    if not await self._is_base_another(inode, row):
                        if isinstance(again, ObjectNotFound):
                            raise
                        # Nothing is there, but the store finds something: a directory.
                        what = f"{row.key!r}: a directory of objects is there"
                        raise KeyObstructed(what) from error
            if isinstance(error, ObjectNotFound):  # not ENOENT: the program has the file open
                what = f"what {row.key!r} is a change of was changed or deleted by somebody else"
                error = PreconditionFailed(what)
            await self._lost(inode, mtime_ns, row, found, error)
            raise error

    async def _is_base_another(self, inode: Inode, row: Pending) -> bool:
        """Whether the object of which a partial staged copy is a change was changed or deleted:
        the store cannot copy the rest from it."""
        if not inode.flags & Mark.OVERLAY:
            return False
        found = await self._races.found(inode.origin or row.key)
        return found is None or found.etag != inode.etag

    async def recognise_partial(self, inode: Inode) -> None:
        """At the start: has an earlier worker uploaded what is only partly here?"""
        key = await self._catalog.path(inode.ino)
        row = await self._catalog.pending(key) if key is not None else None
        if row is None or not inode.flags & Mark.OVERLAY:
            return
        found = await self._races.found(row.key)
        if found is None or found.etag == inode.etag or not is_ours(row, found):
            return
        if is_older(inode, inode.mtime_ns, found):
            error = PreconditionFailed(f"{row.key!r}: more had been uploaded before the power loss")
            await self._lost(inode, inode.mtime_ns, row, found, error)
        else:
            await self._recognise(inode, row, found)

    async def _lost(
        self,
        inode: Inode,
        mtime_ns: int,
        row: Pending,
        found: ObjectInfo | None,
        error: Exception,
    ) -> None:
        has = mtime_ns if is_same(inode, mtime_ns, row, found) else None
        await self._races.lost(inode, row, found, error, has=has)

    async def _recognise(self, inode: Inode, row: Pending, found: ObjectInfo) -> None:
        """The object is ours: a partial staged copy has its other blocks from it now."""
        await self._catalog.pending_expect(row.key, found.etag)
        if not inode.flags & Mark.OVERLAY or not (found.write_token or "").startswith(row.token):
            return
        await self._catalog.update(inode.ino, etag=found.etag, origin=None, stamp=None)
        record = self._opened.get(inode.ino)
        if record is not None and isinstance(record.file, OverlayFile):
            base = self._open_clean(Source(row.key, found.etag, found.size, inode.ino))
            await record.file.rebase(base, unchanged=False).close()


def is_ours(row: Pending, found: ObjectInfo) -> bool:
    """Whether what is at the key was written for the row, by a worker that did not live to note it
    or by a request whose answer was lost."""
    return row.doubt == 2 or (found.write_token or "").startswith(row.token)


def is_older(inode: Inode, mtime_ns: int, found: ObjectInfo) -> bool:
    """Whether a staged copy that a power loss has left may be older than an object of ours, whose
    note was lost with it."""
    if not inode.flags & Mark.SUSPECT:
        return False
    return bool(inode.flags & Mark.UNSYNCED) or mtime_ns <= _mtime_of(found.write_token or "")


def is_same(inode: Inode, mtime_ns: int, row: Pending, found: ObjectInfo | None) -> bool:
    """Whether it is what had been staged: the copy that a power loss has left is no more, and
    perhaps less."""
    if found is None or not inode.flags & Mark.SUSPECT or not is_ours(row, found):
        return False
    return mtime_ns == _mtime_of(found.write_token or "")


def _mtime_of(token: str) -> int:
    """When the bytes were changed that were sent with a write token; if it does not say, late."""
    parts = token.split("-")
    return int(parts[1], 16) if len(parts) == 3 else sys.maxsize
