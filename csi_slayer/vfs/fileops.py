"""Reading, writing and making durable, for the calls that reach the worker."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial

from csi_slayer.cache.filesystem import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from csi_slayer.catalog import Inode
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.opened import File, IoMode, OpenInode
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.pace import pace
from csi_slayer.content.ranges import as_bytes
from csi_slayer.content.settling import settled_mtime
from csi_slayer.content.staged import (
    StagedFile,
    copy_range,
    fallocate,
    os_errors,
)
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import CacheFull, FsError, SlayerError
from csi_slayer.vfs.base import version_of
from csi_slayer.vfs.openops import OpenOps
from csi_slayer.vfs.types import ReadResult, Request
from csi_slayer.vfs.unopened import Unopened

SEEK_DATA, SEEK_HOLE = 3, 4


class FileOps(OpenOps):
    """See :class:`csi_slayer.vfs.operations.Operations`."""

    _unopened: Unopened

    async def read(self, req: Request, ino: int, fh: int, offset: int, size: int) -> ReadResult:
        if self.handles.get(fh) is None:
            return await self._read_unopened(ino, offset, size)
        file = await self._file(ino, fh)
        if isinstance(file, CleanFile) and offset + size > file.size:
            await self._check_end(ino, file)
        try:
            result = await file.read(offset, size)
        except FsError as error:
            if error.errno == errno.ESTALE and (inode := await self.catalog.find(ino)):
                # Before the answer: an open that follows it must know the new version.
                with contextlib.suppress(SlayerError):
                    await self.refresh.revalidate(inode)
            raise
        # Only where a file that is complete is opened with the pages of the cache's own file.
        if isinstance(file, CleanFile) and self.kernel.passthrough:
            passed = file.passed(offset, size)
            if passed is not None:
                self.kernel.invalidate_pages(ino, passed)
        return result

    async def _check_end(self, ino: int, file: CleanFile) -> None:
        """The end of a version that is open. The kernel has one size for an inode: where it knows
        that the object is longer now it would give zeros for what the older version lacks."""
        inode = await self.catalog.find(ino)
        if inode is not None and inode.size > file.size and inode.etag != file.source.etag:
            raise FsError(errno.ESTALE, "the object is another, longer version")

    async def _read_unopened(self, ino: int, offset: int, size: int) -> ReadResult:
        record = await self._without_open(ino)
        try:
            assert record.file is not None
            result = await record.file.read(offset, size)
            # Put out of the table meanwhile, its file is closed before the engine can read it.
            return result if record.users > 1 else as_bytes(result)
        finally:
            self._unopened.was_read(record)
            await self._drop(record)

    async def _file(self, ino: int, fh: int) -> File:
        """What a handle reads from."""
        record = self.opened.get(ino)
        handle = self.handles.get(fh)
        if handle is None or record is None:
            record = await self._without_open(ino)
            await self._drop(record)
            assert record.file is not None  # the table of files read without an open has it
            return record.file
        file = record.file
        if file is not None and (
            not isinstance(file, CleanFile)
            or version_of(file.source.etag) == handle.version
            or file.renamed
        ):
            return file
        raise FsError(errno.ESTALE, "the version that was opened is gone")

    async def _without_open(self, ino: int) -> OpenInode:
        """Zero-upcall volumes: the kernel does not tell what it opens and closes.

        The record, with one user that the caller has to drop.
        """
        inode = await self.catalog.get(ino)
        self._read_once.add(ino)
        record = self.opened.use(ino)
        try:
            async with record.lock:
                await self._present(record, inode)
        except BaseException:
            await self._drop(record)
            raise
        self._unopened.note(record)
        return record

    async def _present(self, record: OpenInode, inode: Inode) -> None:
        """Have ``record.file`` be the present version, unless somebody is reading another."""
        file = record.file
        alone = record.users <= (2 if record.ino in self._unopened else 1)
        if isinstance(file, CleanFile) and file.source.etag != inode.etag and alone:
            record.file = None
            await file.close()
        if record.file is None:
            if not inode.is_file or inode.etag is None:
                raise FsError(errno.EBADF)
            record.file = await self.content.open_clean(inode)
            await self._ready(record.file, inode)

    async def write(
        self, req: Request, ino: int, fh: int, offset: int, data: memoryview, append: bool = False
    ) -> int:
        file = self._writable_file(ino)
        if append and offset != (end := self.opened.counted(ino, file.size)):
            offset = self._end_of(req, ino, file, offset, end, data)
        if isinstance(file, StagedFile) and pace.is_slow:
            async with self.growing(ino, offset + len(data)):
                written = await file.write_aside(offset, data)
        else:
            await self.reserve(ino, offset + len(data))
            try:
                written = await file.write(offset, data)
            except BaseException:
                await self.not_grown(ino)
                raise
        handle = self.handles.get(fh)
        if handle is not None and handle.flags & os.O_DSYNC and handle.mode == IoMode.DIRECT:
            await self.fsync(req, ino, fh, True)  # of other modes the kernel asks for it
        return written

    def _end_of(
        self,
        req: Request,
        ino: int,
        file: StagedFile | OverlayFile,
        offset: int,
        end: int,
        data: memoryview,
    ) -> int:
        """Where an append goes for which the kernel believes the end to be elsewhere: it has the
        size of before others changed the object, and nothing makes it ask again before it appends.
        """
        if req.resent:
            # It was done before, or some of its pages were: a kill ends a write between two.
            start = offset if offset < end < offset + len(data) else end - len(data)
            with os_errors():
                if start >= 0 and os.pread(file.fd, len(data), start) == data[: end - start]:
                    return start
        self._content_changed(ino)
        return end

    def _writable_file(self, ino: int) -> StagedFile | OverlayFile:
        record = self.opened.get(ino)
        if record is None or not isinstance(record.file, StagedFile | OverlayFile):
            raise FsError(errno.EBADF)
        return record.file

    # -- durability -------------------------------------------------------------------------

    async def flush(self, req: Request, ino: int, fh: int) -> None:
        handle = self.handles.get(fh)
        if handle is None or not handle.writable or self.live.durability != "close":
            return
        await self.content.sync(ino)

    async def _note(self, ino: int) -> None:
        inode = await self.catalog.get(ino)
        if self.content.objects.is_dirty(inode):
            await self.content.note_dirty(inode)

    async def fsync(self, req: Request, ino: int, fh: int, datasync: bool) -> None:
        if self.options.read_only:
            return
        if self.live.durability == "writeback":
            await self._note(ino)
            await self.content.durable.sync(ino)
        else:
            await self.content.sync(ino)

    # -- space ------------------------------------------------------------------------------

    async def fallocate(
        self, req: Request, ino: int, fh: int, mode: int, offset: int, length: int
    ) -> None:
        self.check_writable()
        if mode not in (0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE):
            raise FsError(errno.EOPNOTSUPP)
        file = self._writable_file(ino)
        end = offset + length
        async with self.growing(ino, 0 if mode & KEEP_SIZE else end):
            await self._fallocate(file, mode, offset, length)
        await self._note(ino)

    @staticmethod
    async def _fallocate(
        file: StagedFile | OverlayFile, mode: int, offset: int, length: int
    ) -> None:
        end = offset + length
        if isinstance(file, StagedFile):
            fd = file.fd
            await to_its_end(lambda _unwanted: fallocate(fd, mode, offset, length))
            return
        if mode & (PUNCH_HOLE | ZERO_RANGE) and offset < file.size:
            await file.zero(offset, min(end, file.size))
        if not mode & KEEP_SIZE and end > file.size:
            await file.truncate(end)

    async def lseek(self, req: Request, ino: int, fh: int, offset: int, whence: int) -> int:
        file = await self._file(ino, fh)
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise FsError(errno.EINVAL)
        if offset < 0:
            raise FsError(errno.ENXIO)
        if isinstance(file, StagedFile):
            # A description of our own: its position is nobody else's.
            with os_errors():
                fd = os.open(f"/proc/self/fd/{file.fd}", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    return os.lseek(fd, offset, whence)
                finally:
                    os.close(fd)
        if offset >= file.size:
            raise FsError(errno.ENXIO)
        return offset if whence == SEEK_DATA else file.size

    # -- copying ----------------------------------------------------------------------------

    async def copy_file_range(
        self,
        req: Request,
        ino: int,
        fh: int,
        offset: int,
        out_ino: int,
        out_fh: int,
        out_offset: int,
        length: int,
    ) -> int:
        self.check_writable()
        source = await self._file(ino, fh)
        target = self._writable_file(out_ino)
        if not isinstance(target, StagedFile):
            raise FsError(errno.EOPNOTSUPP)  # the kernel copies by reading and writing
        inode = await self.catalog.get(ino)
        length = max(0, min(length, self.attr(inode).size - offset))
        self.check_quota(out_offset + length - target.size)
        whole = offset == 0 and out_offset == 0 and target.size == 0 and length == inode.size
        if isinstance(source, CleanFile) and source.whole_fd is None:
            if inode.size > self.content.options.hydrate_max or not await source.fill():
                raise FsError(errno.EOPNOTSUPP)
        if source.whole_fd is None or length == 0:
            raise FsError(errno.EOPNOTSUPP)
        with os_errors():
            own = os.dup(source.whole_fd)  # who opens it for writing may close it meanwhile
        try:
            async with self.growing(out_ino, out_offset + length):
                copied = await to_its_end(
                    partial(copy_range, own, offset, target.fd, out_offset, length)
                )
            if copied < length:  # others have cut the source
                await self.not_grown(out_ino)
        except CacheFull:
            raise FsError(errno.ENOSPC) from None
        finally:
            os.close(own)
        await self._note(out_ino)
        if whole and copied == length:
            await self._note_clone(inode, source, out_ino, target)
        return copied

    async def _note_clone(
        self, inode: Inode, source: File, out_ino: int, target: StagedFile
    ) -> None:
        """A whole object was copied: its upload can be a copy in the store."""
        if isinstance(source, CleanFile):
            origin = source.source
        elif inode.etag is not None and not self.content.objects.is_dirty(inode):
            origin = await self.content.objects.source_of(inode)
        else:
            return
        mtime_ns = settled_mtime(target.fd)
        # After that: somebody may have opened the target with O_TRUNC since it was copied to.
        if target.size == origin.size:
            self.content.cloned(out_ino, origin, mtime_ns)
