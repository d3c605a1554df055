"""What becomes of an inode whose object is not the one that we knew: somebody else was faster.

Nothing is dropped: what the store has stays, and bytes that are only here are kept beside it.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog

from csi_slayer.cache import Conflicts, Staging
from csi_slayer.catalog import Catalog, Gone, Inode, Listed, Mark, Pending
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.options import SCRATCH, ContentEvents
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import StagedFile
from csi_slayer.errors import ObjectNotFound, PreconditionFailed, SlayerError, StoreError
from csi_slayer.store.base import ObjectInfo, ObjectStore

log = structlog.get_logger(__name__)


class Races:
    """``changed(ino)`` is told that an inode's content became another."""

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        staging: Staging,
        conflicts: Conflicts,
        opened: OpenInodes,
        events: ContentEvents,
        changed: Callable[[int], None],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._staging = staging
        self._conflicts = conflicts
        self._opened = opened
        self._events = events
        self._changed = changed
        self.gone: Callable[[Gone], object] = lambda gone: None
        """Told of what lost its name because its object is another's or gone."""
        self.kick: Callable[[], object] = lambda: None
        """Told that keys are pending by that."""

    async def found(self, key: str) -> ObjectInfo | None:
        """What the store has there."""
        try:
            return await self._store.head(key)
        except ObjectNotFound:
            return None

    async def lost(
        self,
        inode: Inode,
        row: Pending,
        found: ObjectInfo | None,
        error: Exception,
        *,
        has: int | None = None,
    ) -> None:
        """The store's object is not the one we meant to replace: it stays, or its absence does,
        and our bytes are kept; but for bytes of the mtime ``has``, which the store has, too."""
        now = await self._catalog.find(inode.ino)
        if now is None or now.nlink == 0:
            return  # removed meanwhile; a new file of this name has not met theirs yet
        if found is not None and not inode.is_file:
            await self._give_way(inode, row, found, error)
            return
        record = self._opened.get(inode.ino)
        if record is not None and record.users > 1:
            return  # the handles keep their bytes; decided when the last one is closed
        drop = has is not None and found is not None and inode.stage is not None
        if drop and os.stat(self._staging.file(inode.stage or "")).st_mtime_ns != has:
            return  # written to while the store was asked: looked at again
        file = None
        if record is not None:
            file, record.file = record.file, None
        try:
            if drop and found is not None:
                await self._take(inode, row, found)
                self._staging.remove(inode.stage or "")
            else:
                await self._set_aside(inode, row, found, error)
        finally:
            if file is not None:  # not before: who opens the inode meanwhile gets what it has now
                await file.close()

    async def _give_way(
        self, inode: Inode, row: Pending, found: ObjectInfo, error: Exception
    ) -> None:
        """A link or special file; what theirs is, the next look at the name will tell."""
        name = row.key.rpartition("/")[2]
        theirs = Listed(name, stat.S_IFREG, found.size, found.mtime_ns, found.etag)
        gone = await self._catalog.gave_way(inode, row.key, theirs, self._catalog.defaults)
        if gone is None:
            return
        self._changed(inode.ino)
        for one in gone:
            self.gone(one)
        self._tell(row.key, row.expect, found, error, None)

    async def _set_aside(
        self, inode: Inode, row: Pending, found: ObjectInfo | None, error: Exception
    ) -> None:
        """Suspends nowhere."""
        kept = self._keep(inode, row.key, row.expect, found)
        try:
            if found is None:
                await self._superseded(inode, row.key, None)
            else:
                await self._take(inode, row, found)
        except SlayerError:
            if kept is not None and inode.stage is not None:  # the row still says that it is there
                self._conflicts.give_back(kept, self._staging, inode.stage)
            raise
        self._tell(row.key, row.expect, found, error, kept)

    def _keep(
        self, inode: Inode, key: str, expected: str | None, found: ObjectInfo | None
    ) -> Path | None:
        """Our bytes, if there are any, where an administrator finds them."""
        if inode.stage is None:
            return None
        etag = found.etag if found is not None else None
        return self._conflicts.keep(
            self._staging, inode.stage, key=key, expected=expected, found=etag
        )

    def _tell(
        self,
        key: str,
        expected: str | None,
        found: ObjectInfo | None,
        error: Exception,
        kept: Path | None,
    ) -> None:
        self._events.conflict()
        etag = found.etag if found is not None else None
        where = None if kept is None else str(kept)
        log.error("conflict", key=key, kept_at=where, expected=expected, found=etag,
                  reason=str(error))  # fmt: skip

    async def _take(self, inode: Inode, row: Pending, found: ObjectInfo) -> None:
        self._changed(inode.ino)
        await self._catalog.stored(
            inode.ino,
            row,
            found.etag,
            stage=None,
            stamp=None,
            size=found.size,
            mtime_ns=found.mtime_ns,
            clear=Mark.OVERLAY | Mark.ATTRS_DIRTY | Mark.ATTRS_KNOWN | Mark.XATTRS,
        )

    async def keep_other(self, row: Pending, etag: str) -> bool:
        """Somebody put another object where a rename is going: move it aside, under a name that
        can be found, and go on. Both contents exist. False: it has been replaced or deleted.

        Raises what the copy raised if it still is as it was."""
        aside = f"{SCRATCH}/conflicts/{uuid.uuid4().hex}/{row.key}"
        try:
            await self._store.copy(row.key, aside, source_etag=etag)
        except (PreconditionFailed, ObjectNotFound):
            found = await self.found(row.key)
            if found is not None and found.etag == etag:
                raise
            return False
        self._events.conflict()
        log.error("conflict", key=row.key, kept_as=aside,
                  reason="another object appeared at the target of a rename")  # fmt: skip
        return True

    async def source_changed(self, inode: Inode, key: str, error: StoreError) -> None:
        """Somebody else has changed or deleted the object that was to be copied. What is there now
        is the file then, and moves on as such; but if all the bytes that we knew are here, these
        are uploaded and the other's object stays where it is.

        Raises ``error`` if the object is as we knew it, and while the file is open for writing.
        """
        found = await self.found(key)
        if found is not None and found.etag == inode.etag:
            raise error
        if await self._catalog.find(inode.ino) != inode:
            return  # changed here while the store was asked: looked at again
        log.warning("changed by somebody else", key=key, known=inode.etag,
                    found=found.etag if found is not None else None)  # fmt: skip
        whole = inode.stage is not None and not inode.flags & Mark.OVERLAY
        if whole and inode.origin is not None:
            await self._catalog.disown(inode.ino, inode.origin)
            return
        record = self._opened.get(inode.ino)
        if record is not None and isinstance(record.file, StagedFile | OverlayFile):
            raise error
        if inode.stage is not None:
            if self._is_changed(inode, inode.stage):  # two files swap their names
                kept = self._keep(inode, key, inode.etag, found)
                self._tell(key, inode.etag, found, error, kept)
            else:
                self._staging.remove(inode.stage)
        await self._superseded(inode, key, found)

    def _is_changed(self, inode: Inode, stage: str) -> bool:
        try:
            return os.stat(self._staging.file(stage)).st_mtime_ns != inode.stamp
        except FileNotFoundError:
            return False

    async def _superseded(self, inode: Inode, key: str, found: ObjectInfo | None) -> None:
        """What is at the key now is the file, or nothing is; suspends nowhere."""
        if found is None:
            changes = await self._catalog.superseded(inode, key, None)
        else:
            # Attributes that are set here and not yet there are still to be written.
            known = Mark.NONE if inode.flags & Mark.ATTRS_DIRTY else Mark.ATTRS_KNOWN | Mark.XATTRS
            changes = await self._catalog.superseded(
                inode, key, found.etag, clear=Mark.OVERLAY | known,
                size=found.size, mtime_ns=found.mtime_ns, stamp=None,
            )  # fmt: skip
        self._changed(inode.ino)
        for gone in changes:
            self.gone(gone)
        self.kick()
