"""pyfuse3's handlers, each a call of :class:`csi_slayer.vfs.operations.Operations`."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from typing import Final, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileHandleT, RequestContext

from csi_slayer.fuse.handlers.attributes import mode_without_set_ids
from csi_slayer.fuse.protocol import ROOT_ID, Opcode
from csi_slayer.fuse.pyfuse3_engine import values
from csi_slayer.fuse.pyfuse3_engine.listing import list_names
from csi_slayer.fuse.pyfuse3_engine.requests import Requests, drop_lookups, served
from csi_slayer.fuse.reading import FileReader
from csi_slayer.fuse.requests import appends
from csi_slayer.fuse.stats import Stats
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import FileRange, Opened, SetAttr, Views

LARGEST_READ: Final = 1 << 20
"""Bytes of the largest READ: libfuse's buffers hold no more."""


class Adapter(Requests, pyfuse3.Operations):
    """``ready`` is called when the kernel is about to get the answer to INIT,
    ``attributes_changed`` has it ask for an inode's anew.

    pyfuse3 names open files by their handle alone, so the handles that the kernel gets are ours:
    each stands for an inode and the file system's handle.
    """

    def __init__(
        self,
        ops: Operations,
        stats: Stats,
        loop: asyncio.AbstractEventLoop,
        ready: Callable[[], None],
        attributes_changed: Callable[[int], object],
    ) -> None:
        super().__init__(stats)
        self._ops = ops
        self._ready = ready
        self._attributes_changed = attributes_changed
        self._reader = FileReader(LARGEST_READ, lambda: 0, loop)
        self._open: dict[int, tuple[int, int]] = {}
        self._appending: set[int] = set()
        self._last = 0

    def init(self) -> None:
        self._ready()

    def _opened(self, ino: int, opened: Opened, flags: int = 0) -> FileHandleT:
        self._last += 1
        self._open[self._last] = ino, opened.fh
        if appends(flags) and flags & os.O_ACCMODE == os.O_WRONLY:
            # Nothing that is mapped: what the kernel writes back of that looks the same here.
            self._appending.add(self._last)
        return FileHandleT(self._last)

    # -- names -----------------------------------------------------------------------------------

    @served(Opcode.LOOKUP)
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        return values.entry(await self._ops.lookup(self.request(ctx), parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            drop_lookups(self._ops, ino, count)

    @served(Opcode.SYMLINK)
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        req = self.request(ctx)
        return values.entry(await self._ops.symlink(req, parent_inode, name, target))

    @served(Opcode.MKNOD)
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        req = self.request(ctx)
        return values.entry(await self._ops.mknod(req, parent_inode, name, mode, rdev))

    @served(Opcode.MKDIR)
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        req = self.request(ctx)
        return values.entry(await self._ops.mkdir(req, parent_inode, name, stat.S_IMODE(mode)))

    @served(Opcode.UNLINK)
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._ops.unlink(self.request(ctx), parent_inode, name)

    @served(Opcode.RMDIR)
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._ops.rmdir(self.request(ctx), parent_inode, name)

    @served(Opcode.RENAME2)
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self._ops.rename(
            self.request(ctx), parent_inode_old, name_old, parent_inode_new, name_new, flags
        )

    @served(Opcode.LINK)
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        req = self.request(ctx)
        return values.entry(await self._ops.link(req, inode, new_parent_inode, new_name))

    @served(Opcode.CREATE)
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[pyfuse3.FileInfo, EntryAttributes]:
        entry, opened = await self._ops.create(self.request(ctx), parent_inode, name, mode, flags)
        assert entry.attr is not None
        fh = self._opened(entry.attr.ino, opened, flags)
        return values.file_info(fh, opened), values.entry(entry)

    # -- attributes ------------------------------------------------------------------------------

    @served(Opcode.GETATTR)
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return values.attributes(*await self._ops.getattr(self.request(ctx), inode, None))

    @served(Opcode.SETATTR)
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        changes = values.changes(attr, fields, None if fh is None else self._open[fh][1])
        return values.attributes(*await self._ops.setattr(self.request(ctx), inode, changes))

    @served(Opcode.READLINK)
    async def readlink(self, inode: int, ctx: RequestContext) -> pyfuse3.FileNameT:
        return pyfuse3.FileNameT(await self._ops.readlink(self.request(ctx), inode))

    @served(Opcode.ACCESS)
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        await self._ops.access(self.request(ctx), inode, mode)
        return True

    @served(Opcode.STATFS)
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        return values.statvfs(await self._ops.statfs(self.request(ctx), ROOT_ID))

    @served(Opcode.GETXATTR)
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return await self._ops.getxattr(self.request(ctx), inode, name)

    @served(Opcode.LISTXATTR)
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[pyfuse3.XAttrNameT]:
        names = await self._ops.listxattr(self.request(ctx), inode)
        return [pyfuse3.XAttrNameT(name) for name in names]

    @served(Opcode.SETXATTR)
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        await self._ops.setxattr(self.request(ctx), inode, name, value, 0)

    @served(Opcode.REMOVEXATTR)
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        await self._ops.removexattr(self.request(ctx), inode, name)

    # -- files -----------------------------------------------------------------------------------

    @served(Opcode.OPEN)
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> pyfuse3.FileInfo:
        req = self.request(ctx)
        if flags & os.O_TRUNC and req.uid:
            # The kernel takes set-id bits away at all other changes, in requests of their own.
            mode = await mode_without_set_ids(self._ops, req, inode)
            if mode is not None:
                await self._ops.setattr(req, inode, SetAttr(mode=mode))
                self._attributes_changed(inode)
        opened = await self._ops.open(req, inode, flags)
        return values.file_info(self._opened(inode, opened, flags), opened)

    @served(Opcode.READ)
    async def read(self, fh: int, off: int, size: int) -> bytes:
        result = await self._ops.read(self.request(), *self._open[fh], off, size)
        if isinstance(result, FileRange):
            # What comes of it is copied before anything else runs, as its buffer demands.
            result = await self._reader.load(result, size)
            assert not isinstance(result, FileRange)  # nothing is spliceable here
        elif isinstance(result, Views):
            return b"".join(result.parts)
        # Any buffer will do for pyfuse3.
        return cast("bytes", result if len(result) <= size else memoryview(result)[:size])

    @served(Opcode.WRITE)
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        data, append = memoryview(buf), fh in self._appending
        return await self._ops.write(self.request(), *self._open[fh], off, data, append)

    @served(Opcode.FLUSH)
    async def flush(self, fh: int) -> None:
        await self._ops.flush(self.request(), *self._open[fh])

    @served(Opcode.RELEASE)
    async def release(self, fh: int) -> None:
        self._appending.discard(fh)
        await self._ops.release(self.request(), *self._open.pop(fh))

    @served(Opcode.FSYNC)
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._ops.fsync(self.request(), *self._open[fh], datasync)

    # -- directories -----------------------------------------------------------------------------

    @served(Opcode.OPENDIR)
    async def opendir(self, inode: int, ctx: RequestContext) -> FileHandleT:
        return self._opened(inode, await self._ops.opendir(self.request(ctx), inode))

    @served(Opcode.READDIRPLUS)
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        req = self.request()
        await list_names(self._ops, req, *self._open[fh], start_id, token)

    @served(Opcode.RELEASEDIR)
    async def releasedir(self, fh: int) -> None:
        await self._ops.releasedir(self.request(), *self._open.pop(fh))

    @served(Opcode.FSYNCDIR)
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._ops.fsyncdir(self.request(), *self._open[fh], datasync)
