"""One step each towards the object that the inode table wants: put, copy, mark, delete.

Every write that replaces something carries the condition that what it replaces is what we knew
(If-Match, If-None-Match). A lost race leaves the store's version in place and the local bytes in
the conflicts directory: nothing is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from csi_slayer.cache import Staging
from csi_slayer.catalog import VACATED, Catalog, Inode, Mark, Pending
from csi_slayer.content import mapped, metadata
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.conditional import Conditional, OpenClean, is_ours
from csi_slayer.content.opened import OpenInode, OpenInodes
from csi_slayer.content.options import SCRATCH, ContentOptions
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.races import Races
from csi_slayer.content.retries import NotDeleted
from csi_slayer.content.small import Source
from csi_slayer.content.staged import StagedFile, os_errors
from csi_slayer.content.upload import NotWanted, Uploader, condition_for
from csi_slayer.errors import ObjectNotFound, PreconditionFailed
from csi_slayer.store.base import ABSENT, ANY, Condition, ObjectInfo, ObjectStore, is_copy
from csi_slayer.store.write_token import WRITE_TOKEN

log = structlog.get_logger(__name__)

_SENT = Mark.UNWRITTEN | Mark.SUSPECT | Mark.UNSURE


class Objects:
    """Knows how one inode becomes one object; when to do it is the reconciler's."""

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        staging: Staging,
        races: Races,
        uploader: Uploader,
        opened: OpenInodes,
        open_clean: OpenClean,
        options: ContentOptions,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._staging = staging
        self._staged = str(staging.directory)
        self._races = races
        self._uploader = uploader
        self._opened = opened
        self._open_clean = open_clean
        self._options = options
        self._conditional = Conditional(catalog, races, opened, open_clean)
        self.recognise_partial = self._conditional.recognise_partial
        self.undurable: Callable[[int], object] = lambda ino: None
        """Told that the staged copy may be older on the local disk than what the store has."""
        self.rebased: Callable[[int], Coroutine[Any, Any, None]]
        """Told that what was made durable while it was sent is over another version now."""
        self.moved: Callable[[int, str, str], object] = lambda ino, old, new: None
        """Told that a copy in the store gave the same bytes of an inode another etag."""
        self.follow: Callable[[Source, Source], object] = lambda old, new: None
        """Told that the bytes of the one are those of the other, and nobody has them open here."""
        self.moving: set[str] = set()
        """Temporary keys that are being copied to, for the reconciler to leave alone."""
        self.unsure: dict[int, tuple[str, int, int, int]] = {}
        """Etag, mtime, size, checksum of what was sent while writable past the page cache."""
        self.clones: dict[int, tuple[Source, int]] = {}
        """Staged files that are whole copies of an object, with the mtime when they were."""

    async def metadata_of(self, inode: Inode) -> dict[str, str]:
        """What is to be stored with the inode's object."""
        xattrs = await self._catalog.xattrs(inode.ino) if inode.flags & Mark.XATTRS else {}
        return metadata.encode(inode, xattrs, self._catalog.defaults, full=self._options.posix)

    def staged_stat(self, inode: Inode) -> os.stat_result | None:
        """The staged copy's stat; None if there is none. Raises FsError."""
        if inode.stage is None:
            return None
        record = self._opened.get(inode.ino)
        if record is not None and isinstance(record.file, StagedFile | OverlayFile):
            return record.file.stat()
        with os_errors(), contextlib.suppress(FileNotFoundError):
            return os.stat(f"{self._staged}/{inode.stage}")
        return None

    def is_dirty(self, inode: Inode) -> bool:
        """Whether the staged bytes differ from the object's, by the staged file's mtime."""
        found = self.staged_stat(inode)
        return found is not None and (inode.stamp is None or found.st_mtime_ns != inode.stamp)

    async def put_content(self, inode: Inode, row: Pending) -> bool:
        """Bring the object at ``row.key`` up to date with the inode there; False if it has to be
        looked at again, for things have changed before anything was done."""
        if inode.stage is not None and (self.is_dirty(inode) or inode.etag is None):
            return await self._put_staged(inode, row)
        if inode.etag is None:
            await self._put_empty(inode, row)
        elif inode.origin is not None:
            return await self._copy_here(inode, row)
        elif inode.flags & Mark.ATTRS_DIRTY and self._options.posix:
            return await self._copy_onto_itself(inode, row)
        else:
            await self._catalog.settled(inode.ino, row, inode.etag)
        return True

    async def _put_empty(self, inode: Inode, row: Pending) -> None:
        """A symlink, a fifo, a socket, or a file made by mknod: an empty object."""
        values = {**await self.metadata_of(inode), WRITE_TOKEN: f"{row.token}-empty"}

        async def send(expect: str | None) -> ObjectInfo:
            condition = condition_for(expect)
            return await self._store.put(row.key, b"", condition=condition, metadata=values)

        info = await self._conditional.write(inode, row, send)
        await self._catalog.stored(inode.ino, row, info.etag, stored_ns=info.mtime_ns)

    async def _put_staged(self, inode: Inode, row: Pending) -> bool:
        async with self._opened.held(inode.ino) as record:
            async with record.lock:
                now = await self._catalog.find(inode.ino)
                if now != inode or await self._catalog.path(inode.ino) != row.key:
                    return False  # changed while we waited for the lock
                if not isinstance(record.file, StagedFile | OverlayFile):
                    record.file = await self.open_stage(inode)
                staged = record.file
            try:
                await self._send_staged(inode, row, record, staged)
            except NotWanted:
                return False
        return True

    async def _send_staged(
        self, inode: Inode, row: Pending, record: OpenInode, staged: StagedFile | OverlayFile
    ) -> None:
        retimed = record.retimed
        unsure = record.past_cache and record.backing_id != 0
        record.unsure |= unsure
        with os_errors():
            mtime_ns = await self._opened.settle(record, staged.fd)
        syncs = record.syncs_begun  # those that begin after it have all that is sent
        if inode.ino in self._opened.mappable:
            # After the stat: a store that comes before this is read, one after it changes the time.
            with os_errors():
                await asyncio.to_thread(mapped.write_back, staged.fd)
        size = os.fstat(staged.fd).st_size
        seen = self.unsure.pop(inode.ino, None)  # what comes after this the next look finds
        content = await self._uploader.look(staged.fd, size) if unsure or seen else 0
        if seen == (inode.etag, mtime_ns, size, content) and record.retimed == retimed:
            await self._catalog.update(inode.ino, stamp=mtime_ns)
            raise NotWanted
        current = inode._replace(size=size, mtime_ns=mtime_ns)
        values = await self.metadata_of(current)
        values[WRITE_TOKEN] = f"{row.token}-{mtime_ns:x}-{size:x}"

        async def send(expect: str | None) -> ObjectInfo:
            return await self._clone(current, row, values) or await self._uploader.send(
                inode.ino, row.key, staged, size, condition_for(expect), values
            )

        info = await self._conditional.write(inode, row, send, mtime_ns)
        # Else what the disk has of it may be older than what the store has now.
        later = record.synced > syncs
        await self._catalog.stored(
            inode.ino,
            row,
            info.etag,
            add=Mark.ATTRS_KNOWN | (0 if later else Mark.UNSYNCED) | (Mark.UNSURE if unsure else 0),
            clear=inode.flags & _SENT,
            stamp=mtime_ns if record.retimed == retimed else None,
            size=self._opened.counted(inode.ino, staged.size),  # it may have grown since
            mtime_ns=mtime_ns,
            stored_ns=info.mtime_ns,
        )
        if not later:
            self.undurable(inode.ino)
        if unsure:
            self.unsure[inode.ino] = info.etag, mtime_ns, size, content
        if isinstance(staged, OverlayFile):
            base = self._open_clean(Source(row.key, info.etag, size, inode.ino))
            sure = record.retimed == retimed and not unsure
            unchanged = sure and staged.stat().st_mtime_ns == mtime_ns
            await staged.rebase(base, unchanged=unchanged).close()
            if later:
                await self.rebased(inode.ino)

    async def _clone(
        self, inode: Inode, row: Pending, values: Mapping[str, str]
    ) -> ObjectInfo | None:
        """If the staged bytes are just a copy of another object: copy that, server-side."""
        source, mtime_ns = self.clones.pop(inode.ino, (None, 0))
        if source is None or (source.size, mtime_ns) != (inode.size, inode.mtime_ns):
            return None
        if inode.ino in self._opened.mappable:
            return None
        condition = await self._require(row, source.key)
        changes = metadata.instead(values)
        try:
            return await self._store.copy(
                source.key, row.key, source_etag=source.etag, metadata=changes, condition=condition
            )
        except (PreconditionFailed, ObjectNotFound):
            return None  # one of both has changed: send the bytes that were copied here

    async def open_stage(self, inode: Inode) -> StagedFile | OverlayFile:
        """The staged copy of an inode that has one."""
        assert inode.stage is not None
        path = self._staging.file(inode.stage)
        with os_errors():
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if not inode.flags & Mark.OVERLAY:
            return StagedFile(inode.stage, path, fd)
        try:
            source = await self.source_of(inode)
            return OverlayFile(inode.stage, path, fd, self._open_clean(source))
        except BaseException:
            os.close(fd)
            raise

    async def source_of(self, inode: Inode) -> Source:
        """Where the inode's object is now."""
        key = inode.origin or await self._catalog.path(inode.ino) or inode.lost
        if key is None or inode.etag is None:
            raise ObjectNotFound(f"inode {inode.ino} has no object")
        return Source(key, inode.etag, inode.size, inode.ino)

    async def _copy_here(self, inode: Inode, row: Pending) -> bool:
        """Carry out a rename: copy the object server-side to the inode's path."""
        assert inode.origin is not None
        changes, condition = None, ANY
        if inode.flags & Mark.ATTRS_DIRTY:
            changes = metadata.instead(await self.metadata_of(inode))
        try:
            condition = await self._require(row, inode.origin)
            await self._catalog.copy_begins(row.key)
            info = await self._store.copy(
                inode.origin, row.key, source_etag=inode.etag, metadata=changes, condition=condition
            )
        except (PreconditionFailed, ObjectNotFound) as error:
            await self._catalog.copy_refused(row)
            try:
                await self._races.source_changed(inode, inode.origin, error)
            except (PreconditionFailed, ObjectNotFound):  # then it was the target
                if condition == ANY or condition.holds(await self._races.found(row.key)):
                    raise
            return False
        await self._copied(inode, row, info)
        return True

    async def _copy_onto_itself(self, inode: Inode, row: Pending) -> bool:
        """Replace an object's metadata: chmod, chown, utimes, xattrs of an existing file."""
        token = f"{row.token}-attrs"
        changes = metadata.instead(await self.metadata_of(inode)) | {WRITE_TOKEN: token}
        there = Condition(if_match=inode.etag)
        try:
            info = await self._store.copy(
                row.key, row.key, source_etag=inode.etag, metadata=changes, condition=there
            )
        except (PreconditionFailed, ObjectNotFound) as error:
            found = await self._races.found(row.key)
            if found is None or found.write_token != token or found.size != inode.size:
                await self._races.source_changed(inode, row.key, error)
                return False
            # A worker that died had made the copy: the same bytes, with the attributes of then.
            await self._catalog.update(inode.ino, etag=found.etag)
            await self._catalog.pending_expect(row.key, found.etag)
            self._tell_reader(inode, row.key, found.etag)
            return False
        await self._copied(inode, row, info)
        return True

    async def _copied(self, inode: Inode, row: Pending, info: ObjectInfo) -> None:
        onto = inode.etag if inode.origin is None else None
        in_place = await self._catalog.stored(
            inode.ino, row, info.etag, copied=True, onto=onto, stored_ns=info.mtime_ns
        )
        if in_place or onto:
            self._tell_reader(inode, row.key, info.etag)

    def _tell_reader(self, inode: Inode, key: str, etag: str) -> None:
        """The version that ``inode`` names is at that key, under that version, now. Who reads one
        that somebody else has replaced goes on asking for that."""
        record = self._opened.get(inode.ino)
        file = record.file if record is not None else None
        clean = file.base if isinstance(file, OverlayFile) else file
        if not isinstance(clean, CleanFile):
            assert inode.etag is not None
            old = Source(inode.origin or key, inode.etag, inode.size)
            self.follow(old, old._replace(key=key, etag=etag))
        elif clean.source.etag == inode.etag:
            self.moved(inode.ino, clean.source.etag, etag)
            clean.moved(key, etag)

    async def _require(self, row: Pending, source_key: str) -> Condition:
        """What a copy to the key may replace. Not every S3 service makes a copy conditional on its
        target: look before."""
        if row.expect is None:
            return ANY
        while (found := await self._races.found(row.key)) is not None:
            if (
                found.etag == row.expect
                or is_ours(row, found)
                # A worker that died may have made the copy already.
                or is_copy(found, await self._store.head(source_key))
                or await self._races.keep_other(row, found.etag)
            ):
                return Condition(if_match=found.etag)
        return ABSENT

    async def move_aside(self, inode: Inode) -> None:
        """Copy an inode's object to a temporary key, so that its present key can be used."""
        assert inode.origin is not None
        key = f"{SCRATCH}/moving/{uuid.uuid4().hex}"
        self.moving.add(key)
        try:
            # Pending: should this worker die, the next one deletes the copy.
            await self._catalog.copy_begins(key)
            info = await self._store.copy(inode.origin, key, source_etag=inode.etag)
            await self._catalog.relocated(inode, key, info.etag)
        except (PreconditionFailed, ObjectNotFound) as error:
            await self._races.source_changed(inode, inode.origin, error)
            return
        finally:
            self.moving.discard(key)
        self._tell_reader(inode, key, info.etag)

    async def put_marker(self, inode: Inode, row: Pending) -> None:
        """The empty object that says that a directory exists."""
        if row.expect != "" and await self._has_content(row.key):
            await self._catalog.settled(inode.ino, row, None)
            return
        values: Mapping[str, str] = await self.metadata_of(inode)
        info = await self._store.put(row.key, b"", metadata=values)
        await self._catalog.settled(inode.ino, row, info.etag)

    async def delete_many(self, rows: list[Pending]) -> None:
        """Delete the objects of these keys. Raises StoreError if one is left, which stays
        pending."""
        asked = [
            row for row in rows if row.expect == "" or row.key.endswith("/") or row.doubt == VACATED
        ]
        found = await asyncio.gather(*(self._is_to_go(row) for row in asked))
        left = {row.key for row, is_to_go in zip(asked, found, strict=True) if not is_to_go}
        keys = [row.key for row in rows if row.key not in left]
        failed: Mapping[str, str] = {}
        if len(keys) == 1:
            await self._store.delete(keys[0])
        elif keys:
            failed = await self._store.delete_many(keys)
        await self._catalog.removed([row for row in rows if row.key not in failed])
        for key, reason in failed.items():
            await self._catalog.pending_failed(key, reason)
        if failed:
            raise NotDeleted(failed)

    async def _is_to_go(self, row: Pending) -> bool:
        """Whether a mark, what may be at a key that we believe free, or what is where something
        has moved away, is to be deleted."""
        if row.doubt == VACATED:
            return await self._is_left(row)
        if row.expect == "" and not await self._left_behind(row):
            return False
        return not (row.key.endswith("/") and await self._has_content(row.key))

    async def _is_left(self, row: Pending) -> bool:
        """Whether what is at a vacated key is what has moved, or was to be replaced, and nothing
        that somebody else has put there."""
        found = await self._races.found(row.key)
        if found is None or found.etag == row.expect or is_ours(row, found):
            return found is not None
        log.warning("changed by somebody else, not deleted", key=row.key, known=row.expect,
                    found=found.etag)  # fmt: skip
        return False

    async def _has_content(self, key: str) -> bool:
        """Whether a directory's mark is somebody's object with bytes in it: that is not touched."""
        found = await self._races.found(key)
        if found is None or found.size == 0:
            return False
        log.warning("mark with content left alone", key=key, size=found.size)
        return True

    async def _left_behind(self, row: Pending) -> bool:
        """Whether a key that we believe free has an object of ours that nobody noted."""
        if row.doubt == 0:
            return False
        if row.key.endswith("/"):
            return True  # whoever marked it: it is the directory that was removed here
        found = await self._races.found(row.key)
        return found is not None and is_ours(row, found)
