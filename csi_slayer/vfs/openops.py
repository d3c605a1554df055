"""Opening and closing files: handles, and how the kernel is to do each inode's I/O."""

from __future__ import annotations

import asyncio
import errno
import os
import stat

import structlog

from csi_slayer.cache import SMALL
from csi_slayer.catalog import Inode, Mark
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.opened import UNKNOWN_FILE, File, IoMode, OpenInode, letting_go, local_file
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import StagedFile, discarding, os_errors
from csi_slayer.errors import FsError, SlayerError
from csi_slayer.vfs import names
from csi_slayer.vfs.base import NameMoved, version_of
from csi_slayer.vfs.handles import Handle
from csi_slayer.vfs.marks import Marks
from csi_slayer.vfs.nameops import NameOps
from csi_slayer.vfs.types import Entry, Opened, OpenFlags, Request

log = structlog.get_logger(__name__)

QUOTA_SLACK = 1 << 30
"""A volume with a quota lets the kernel write past us only while this many bytes are free."""

LEFT = 16
"""Newest backing ids that are looked at after a take-over; each worker that is killed while it
starts leaves one."""

TRIED_AGAIN = 10.0
"""Seconds after a take-over for which an open may be the second try of one that the predecessor
refused: the kernel tries once more, and then tells the program."""


class OpenOps(NameOps):
    """See :class:`csi_slayer.vfs.operations.Operations`."""

    _refused_before: float

    async def open(self, req: Request, ino: int, flags: int) -> Opened:
        if req.resent and (handle := self.handles.by_request(req.unique)) is not None:
            return self._answer(handle, OpenFlags.NONE)
        writable = flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)
        if writable:
            self.check_writable()
        if (removed := self.removed.get(ino)) is not None:
            self._late.note(removed.parent)
        inode = await self.catalog.get(ino)
        self._check_not_lost(inode)
        inode = await self._fresh(inode)
        if not inode.is_file:
            raise FsError(errno.EISDIR if inode.is_dir else errno.ENXIO)
        if flags & os.O_APPEND:
            await self._tell_the_end(ino)
        if writable:
            await self.known(inode)
        record = self.opened.use(ino)
        try:
            async with record.lock:
                return await self.at_present(
                    record,
                    lambda inode: self._open(req, record, inode, flags, writable),
                    writable=writable,
                )
        except BaseException:
            await self._drop(record)
            raise

    async def _tell_the_end(self, ino: int) -> None:
        """An append goes to where the kernel believes the file to end. After others have changed
        it only a look-up of its name tells that: raises NameMoved, once for each change, unless the
        kernel appends to the local file by itself. Shortly after a take-over it goes without:
        :meth:`FileOps.write` knows the end."""
        if self.kernel.passthrough or asyncio.get_running_loop().time() < self._refused_before:
            return
        if not self._stale_pages.tell(ino):
            return
        await self.kernel.renew(ino)
        raise NameMoved()

    async def _fresh(self, inode: Inode) -> Inode:
        record = self.opened.get(inode.ino)
        if record is not None and inode.stage is not None and record.lock.locked():
            # The last close, perhaps, which is not to be taken for a change that is under way.
            async with self.opened.held(inode.ino), record.lock:
                inode = await self.catalog.get(inode.ino)
        if self.is_changed_here(inode) or not inode.is_file:
            return inode
        if self.live.close_to_open:
            stale = True
        elif self.refresh.is_fresh(inode.checked_ns):
            stale = False
        else:
            parent = await self.catalog.find(inode.parent)
            stale = parent is None or not self.refresh.is_fresh(parent.listed_ns)
        if stale:
            await self.refresh.revalidate(inode, known=not self.live.close_to_open)
            await self.check_named(inode)
            inode = await self.catalog.get(inode.ino)
        return await self.unread.read(inode)

    async def _open(
        self, req: Request, record: OpenInode, inode: Inode, flags: int, writable: bool
    ) -> Opened:
        ino = inode.ino
        if writable:
            await self.content.writable(record, inode, truncate=bool(flags & os.O_TRUNC))
            if flags & os.O_TRUNC:
                await self.content.note_dirty(await self.catalog.get(ino))
        else:
            await self._readable(record, inode)
            file = record.file
            if isinstance(file, CleanFile) and file.whole_fd is None:
                if self.kernel.passthrough and record.mode == IoMode.NONE:
                    await self._whole_files.fetch(record, file)
        stale = self._stale_pages.take(ino)
        try:
            if stale:
                # Before the answer: what is read ends where the kernel believes the file to end.
                await self.kernel.renew(ino)
            handle = self._handle(req, record, inode, flags)
        except BaseException:
            if stale:  # nothing was answered, and what the kernel was to be told is told no more
                self._content_changed(ino)
            raise
        keep = not stale and not flags & os.O_TRUNC
        return self._answer(handle, OpenFlags.KEEP_CACHE if keep else OpenFlags.NONE)

    async def _readable(self, record: OpenInode, inode: Inode) -> None:
        """Have ``record.file`` be the inode's present content."""
        file = record.file
        if file is None:
            if inode.stage is not None:
                record.file = await self.content.objects.open_stage(inode)
            elif inode.etag is None:
                record.file = await self.content.writable(record, inode, truncate=inode.size > 0)
            else:
                # Known as open from now on: a rename that moves the object tells it where to.
                record.file = await self.content.open_clean(inode)
                await self._ready(record.file, inode)

    async def _ready(self, file: CleanFile, inode: Inode) -> None:
        """Fetch a small file, find the segment of a large one."""
        if 0 < inode.size <= SMALL:
            await self._fetch_ahead.opened(inode)
        if 0 < inode.size <= self.content.spans.most:
            await file.open_segment()

    def _handle(self, req: Request, record: OpenInode, inode: Inode, flags: int) -> Handle:
        """Choose the I/O mode and write the handle down before it is answered."""
        file = record.file
        assert file is not None
        mode = self._mode(record, inode, flags)
        if mode == IoMode.PASSTHROUGH and record.backing_id == 0:
            mode = self._backed(record, file)
        if mode in (IoMode.PASSTHROUGH, IoMode.CACHED):
            record.mode = mode
        version = version_of(file.source.etag) if isinstance(file, CleanFile) else 0
        handle = self.handles.add(
            req.unique, inode.ino, version, flags, mode,
            0 if mode == IoMode.CACHED else record.backing_id, record.backing_file,
        )  # fmt: skip
        record.hold(flags)
        if handle.backing_id and flags & os.O_ACCMODE == os.O_RDWR:
            self.opened.mappable.add(inode.ino)
        self.events.opened(mode == IoMode.PASSTHROUGH)
        return handle

    def _backed(self, record: OpenInode, file: File) -> IoMode:
        """Register the file with the kernel; if it does not take it, the worker serves it."""
        fd = file.whole_fd
        assert fd is not None
        try:
            record.backing_id = self.kernel.backing_open(fd)
        except FsError as error:
            log.info("the kernel takes no backing file", reason=str(error))
            return IoMode.CACHED
        record.backing_file = local_file(fd)
        return IoMode.PASSTHROUGH

    def _mode(self, record: OpenInode, inode: Inode, flags: int) -> IoMode:
        assert record.file is not None
        if record.mode == IoMode.CACHED:
            return IoMode.CACHED
        fd = record.file.whole_fd
        past_us = self.kernel.passthrough and self._may_write_past_us(inode, flags)
        if record.mode == IoMode.PASSTHROUGH:
            # The kernel takes one backing file per inode; what differs from it goes past its cache.
            same = past_us and record.is_backed_by(fd)
            return IoMode.PASSTHROUGH if same else IoMode.DIRECT
        return IoMode.PASSTHROUGH if fd is not None and past_us else IoMode.CACHED

    def _may_write_past_us(self, inode: Inode, flags: int) -> bool:
        quota = self.live.quota
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return True
        if flags & os.O_ACCMODE == os.O_RDWR and not self.content.maps_for_writing:
            return False
        if flags & os.O_DSYNC or inode.mode & (stat.S_ISUID | stat.S_ISGID):
            # What the kernel writes by itself it neither has us store nor takes set-id bits from.
            return False
        if flags & os.O_DIRECT and flags & os.O_ACCMODE == os.O_WRONLY:
            # dd takes O_DIRECT off before its last, shorter block: the backing file keeps it.
            return False
        if quota is None:
            return True
        return quota - self.catalog.used_bytes >= max(QUOTA_SLACK, quota // 10)

    def _answer(self, handle: Handle, extra: int) -> Opened:
        flags = extra
        if handle.mode == IoMode.PASSTHROUGH:
            flags = OpenFlags.PASSTHROUGH  # the kernel refuses KEEP_CACHE beside it
        elif handle.mode == IoMode.DIRECT:
            # The kernel takes no open without the backing file while another has it, and DIRECT_IO
            # goes before PASSTHROUGH for reads and writes.
            flags = OpenFlags.DIRECT_IO | (OpenFlags.PASSTHROUGH if handle.backing_id else 0)
        if not handle.writable or self.live.durability != "close":
            flags |= OpenFlags.NOFLUSH
        return Opened(handle.fh, flags, handle.backing_id)

    async def create(
        self, req: Request, parent: int, name: bytes, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        if req.resent:
            handle = self.handles.by_request(req.unique)
            ino = await self.done_before(req)
            if handle is not None:  # ``ino`` is None where the name was there: this was an open
                found = await self.catalog.get(handle.ino)
                return self.entry(found), self._answer(handle, OpenFlags.NONE)
            if ino is not None:
                return self.entry(await self.catalog.get(ino)), await self.open(req, ino, flags)
        self.check_writable()
        text = names.decode(name)
        directory, inode = await self.find_child(parent, text)
        if inode is not None:
            if flags & os.O_EXCL:
                raise FsError(errno.EEXIST)
            opened = await self.open(req, inode.ino, flags)
            return self.entry(await self.catalog.get(inode.ino)), opened
        await self.check_new(parent, text)
        self.check_quota(1)
        return await self._create(req, directory, text, mode, flags)

    async def _create(
        self, req: Request, directory: Inode, name: str, mode: int, flags: int
    ) -> tuple[Entry, Opened]:
        file = self.content.new_stage()
        async with discarding(self.content.staging, file):
            inode = await self.catalog.make(
                directory.ino, name, mode=stat.S_IFREG | stat.S_IMODE(mode), uid=req.uid,
                gid=self.group(req, directory), stage=file.stage, request=req.unique,
            )  # fmt: skip
        self.content.durable.note(inode.ino)
        record = self.opened.use(inode.ino)
        record.file = file
        try:
            handle = self._handle(req, record, inode, flags)
        except BaseException:
            await self._drop(record)
            raise
        return self.entry(inode), self._answer(handle, OpenFlags.KEEP_CACHE)

    async def release(self, req: Request, ino: int, fh: int) -> None:
        handle = self.handles.get(fh)
        record = self.opened.get(ino)
        if handle is None or record is None:
            self.handles.remove(fh)
            return
        if record.leave(writable=handle.writable):
            with letting_go(ino):
                await self._look_again(record)
        self.handles.remove(fh)  # not before: should this worker die, its successor looks
        await self._late.leaving(record)
        await self._drop(record)

    async def _look_again(self, record: OpenInode) -> None:
        """Have a file count as changed, though its time tells nothing of it."""
        inode = await self.catalog.find(record.ino)
        if inode is None or inode.stage is None:
            return
        try:
            await self.catalog.update(inode.ino, stamp=None)
        except SlayerError:  # of a full disk: then its time has to tell
            if isinstance(record.file, StagedFile | OverlayFile):
                with os_errors():
                    found = record.file.stat()
                    os.utime(record.file.fd, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        await self.content.note_dirty(inode)

    async def _drop(self, record: OpenInode) -> None:
        """One user less; the last one gives back what we hold for the inode, the last handle what
        the kernel holds: of what no handle tells a successor would not know."""
        if record.handles == 0 and record.backing_id:
            self.kernel.backing_close(record.backing_id)
            record.mode, record.backing_id = IoMode.NONE, 0
            record.backing_file = UNKNOWN_FILE
        if record.handles == 0:
            self._whole_files.closed(record)
        if not self.opened.drop(record):
            if record.writers == 0 and isinstance(record.file, StagedFile | OverlayFile):
                self.content.reconciler.kick()
            return
        staged = was_staged = isinstance(record.file, StagedFile | OverlayFile)
        try:
            if isinstance(record.file, StagedFile) and not record.unlinked:
                staged = not await self.content.retire_open(record.ino, record.file)
        except SlayerError:
            staged = True  # below, or later
        finally:
            if record.file is not None:
                await record.file.close()
            record.file = None
        if staged or record.unlinked:
            await self.content.closed(record.ino)
        inode = await self.catalog.find(record.ino) if was_staged else None
        if inode is not None and inode.flags & Mark.ATTRS_DIRTY:
            self.content.reconciler.kick()  # they may have waited for the last close
        if record.unlinked:
            self._stale_pages.forgotten(record.ino)  # nobody opens it any more

    async def restore_handles(self) -> None:
        """After a take-over: open again what the kernel holds open."""
        self._refused_before = asyncio.get_running_loop().time() + TRIED_AGAIN
        self._seen = Marks(self.catalog.next_ino)
        self._stale_pages.add_all()  # what the kernel was still to be told died with the worker
        if self.zero_upcall:  # what is open nobody knows, nor what was read
            self._read_once = Marks(self.catalog.next_ino)
        for orphan in list(self.catalog.each_orphan()):
            if orphan.is_dir or self.zero_upcall:  # nor who works in a directory
                self._kept.add(orphan.ino)
        for handle in self.handles:
            inode = await self.catalog.find(handle.ino)
            if inode is None:
                self.handles.remove(handle.fh)
                self.handles.released.add(handle.backing_id)
                continue
            record = self.opened.use(handle.ino)
            record.unlinked = inode.nlink == 0
            record.hold(handle.flags)
            record.unsure = bool(inode.flags & Mark.UNSURE)  # what the one before has sent
            if handle.mode in (IoMode.PASSTHROUGH, IoMode.CACHED):
                record.mode = handle.mode
            elif handle.backing_id:
                record.mode = IoMode.PASSTHROUGH
            if handle.backing_id:
                record.backing_id, record.backing_file = handle.backing_id, handle.backing_file
            if record.file is None:
                await self._restore(record, inode)
        self._give_back_left()

    def _give_back_left(self) -> None:
        """Backing files that a worker had registered when it died and had not written down yet, or
        not any more: the kernel would hold them open, and their room on the disk, until the end of
        the connection, and a staged one would count as mapped. Ids are given in order, so the
        former are next before the one that is given now."""
        if not self.kernel.passthrough:
            return
        try:
            newest = self.kernel.backing_open(self.handles.fileno())
        except FsError as error:
            log.info("the kernel takes no backing file", reason=str(error))
            return
        left = {*range(max(1, newest - LEFT), newest + 1), *self.handles.released}
        for backing_id in left - {0, *(handle.backing_id for handle in self.handles)}:
            self.kernel.backing_close(backing_id)
        self.handles.released.clear()

    async def _restore(self, record: OpenInode, inode: Inode) -> None:
        try:
            if inode.stage is not None:
                record.file = await self.content.objects.open_stage(inode)
            elif inode.etag is not None:
                record.file = clean = await self.content.open_clean(inode)
                # What has no name any more is changed by nobody: it is what was opened.
                clean.renamed = inode.nlink == 0
                if 0 < inode.size <= self.content.spans.most:
                    await clean.open_local()
        except SlayerError:
            return
