"""Attributes and extended attributes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Sequence
from typing import Any

from csi_slayer.catalog import Inode, Mark
from csi_slayer.content import metadata
from csi_slayer.content.opened import OpenInode
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import StagedFile, os_errors
from csi_slayer.errors import FsError
from csi_slayer.store.base import storable_time
from csi_slayer.vfs.room import Room
from csi_slayer.vfs.types import Attr, Request, SetAttr

XATTR_CREATE = 1
XATTR_REPLACE = 2
XATTR_NAME_MAX = 255


def _storable(changes: SetAttr) -> SetAttr:
    """A time that cannot be kept becomes the nearest that can, as in every file system
    (utimensat(2))."""

    def nearest(time_ns: int | None) -> int | None:
        return None if time_ns is None else storable_time(time_ns)

    return changes._replace(
        atime_ns=nearest(changes.atime_ns),
        mtime_ns=nearest(changes.mtime_ns),
        ctime_ns=nearest(changes.ctime_ns),
    )


def _values(inode: Inode, changes: SetAttr) -> dict[str, Any]:
    """What of ``inode`` becomes what, but for its size."""
    values: dict[str, Any] = {"ctime_ns": changes.ctime_ns or time.time_ns()}
    if changes.mode is not None:
        values["mode"] = stat.S_IFMT(inode.mode) | stat.S_IMODE(changes.mode)
    for name in ("uid", "gid", "atime_ns", "mtime_ns"):
        value = getattr(changes, name)
        if value is not None:
            values[name] = value
    return values


class AttrOps(Room):
    """See :class:`csi_slayer.vfs.operations.Operations`."""

    async def getattr(self, req: Request, ino: int, fh: int | None) -> tuple[Attr, float]:
        if (removed := self.removed.get(ino)) is not None:
            return self.attr(removed), self.live.metadata_ttl
        inode = await self.catalog.get(ino)
        self._kept.used(ino)
        if (
            inode.is_file
            and not self.is_changed_here(inode)
            and not self.refresh.is_fresh(inode.checked_ns)
        ):
            parent = await self.catalog.find(inode.parent)
            if parent is None or not self.refresh.is_fresh(parent.listed_ns):
                await self.refresh.revalidate(inode, known=True)
                inode = await self.catalog.get(ino)
        return self.attr(inode), self.ttl(inode)

    async def setattr(self, req: Request, ino: int, changes: SetAttr) -> tuple[Attr, float]:
        self.check_writable()
        if changes.size is None and (removed := self.removed.get(ino)) is not None:
            removed = self.removed[ino] = removed._replace(**_values(removed, _storable(changes)))
            return self.attr(removed), self.live.metadata_ttl
        inode = await self.known(await self.catalog.get(ino))
        if changes.size is not None:
            await self._truncate(inode, changes.size)
            inode = await self.catalog.get(ino)
        if changes._replace(size=None, fh=None) != SetAttr():
            await self._set(inode, changes)
            inode = await self.catalog.get(ino)
        return self.attr(inode), self.ttl(inode)

    async def _truncate(self, inode: Inode, size: int) -> None:
        if inode.is_dir:
            raise FsError(errno.EISDIR)
        if not inode.is_file:
            raise FsError(errno.EINVAL)
        self.check_quota(size - self.attr(inode).size)
        record = self.opened.use(inode.ino)
        try:
            async with record.lock:
                file = await self._writable(record, truncate=size == 0)
                if size:  # else it is empty already. To its own size too: its times change.
                    async with self.growing(inode.ino, size):
                        await self.content.truncate(record, file, size)
            await self.content.note_dirty(await self.catalog.get(inode.ino))
        finally:
            await self.opened.let_go(record)

    async def _writable(self, record: OpenInode, *, truncate: bool) -> StagedFile | OverlayFile:
        file = await self.at_present(
            record,
            lambda inode: self.content.writable(record, inode, truncate=truncate),
            writable=True,
        )
        assert isinstance(file, StagedFile | OverlayFile)
        return file

    async def _set(self, inode: Inode, changes: SetAttr, *, attrs_dirty: bool = False) -> None:
        changes = _storable(changes)
        values = _values(inode, changes)
        if changes.mtime_ns is not None and inode.stage is not None:
            await self._touch_stage(inode, changes.mtime_ns, values)
        if set(values) <= {"ctime_ns", "atime_ns"} and not attrs_dirty:
            await self.catalog.update(inode.ino, **values)
            return
        marks = Mark.ATTRS_KNOWN | Mark.ATTRS_DIRTY
        key = await self.catalog.path(inode.ino)
        if key is not None and self.options.posix:
            in_place = inode.etag is not None and inode.origin is None
            key = key + "/" if inode.is_dir else key
            expect = inode.etag if in_place else ("" if not inode.is_dir else None)
            await self.catalog.dirty(inode.ino, key, expect, add=marks, **values)
            self.changed_names()
        else:
            await self.catalog.update(inode.ino, add=marks, **values)

    async def _touch_stage(self, inode: Inode, mtime_ns: int, values: dict[str, Any]) -> None:
        """The staged file's mtime is the file's, and tells whether it was changed."""
        assert inode.stage is not None
        before = self.staged_stat(inode)
        if before is not None and inode.stamp == mtime_ns != before.st_mtime_ns:
            # Set back to the very time at which it was clean: no successor is to believe that.
            await self.catalog.update(inode.ino, stamp=None)
        record = self.opened.get(inode.ino)
        with os_errors():
            if record is not None and isinstance(record.file, StagedFile | OverlayFile):
                os.utime(record.file.fd, ns=(mtime_ns, mtime_ns))
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.content.staging.path(inode.stage), ns=(mtime_ns, mtime_ns))
        if before is None:
            return  # closed and uploaded, it is just becoming a segment
        self.content.retimed(inode.ino, before.st_mtime_ns, mtime_ns)
        if before.st_mtime_ns == inode.stamp:
            values["stamp"] = mtime_ns

    async def access(self, req: Request, ino: int, mask: int) -> None:
        """The kernel checks permissions itself (default_permissions)."""
        if mask & os.W_OK:
            self.check_writable()

    # -- extended attributes ----------------------------------------------------------------

    @staticmethod
    def _check_xattr(name: bytes) -> None:
        namespace, _dot, rest = name.partition(b".")
        if namespace not in metadata.XATTR_NAMESPACES:
            raise FsError(errno.EOPNOTSUPP)  # POSIX ACLs, in "system.", among them
        if not rest:
            raise FsError(errno.EINVAL)
        if len(name) > XATTR_NAME_MAX:
            raise FsError(errno.ERANGE)

    async def getxattr(self, req: Request, ino: int, name: bytes) -> bytes:
        self._check_xattr(name)
        value = await self.catalog.xattr(ino, name)
        if value is None:
            raise FsError(errno.ENODATA)
        return value

    async def listxattr(self, req: Request, ino: int) -> Sequence[bytes]:
        names = await self.catalog.xattrs(ino)
        # Who may not read them is not told of them either: xattr(7).
        return [name for name in names if req.uid == 0 or not name.startswith(b"trusted.")]

    async def setxattr(self, req: Request, ino: int, name: bytes, value: bytes, flags: int) -> None:
        if await self._xattr_set_before(req, ino):
            return
        self.check_writable()
        self._check_xattr(name)
        inode = await self.known(await self.catalog.get(ino))
        values = await self.catalog.xattrs(ino)
        if flags & XATTR_CREATE and name in values:
            raise FsError(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in values:
            raise FsError(errno.ENODATA)
        values[name] = value
        size, target = len(metadata.encode_xattrs(values)), inode.target or ""
        room = metadata.TEXT_LIMIT - metadata.stored_length(target)
        if size > min(room, metadata.XATTR_LIMIT):
            raise FsError(errno.ENOSPC, "S3 keeps 2 KiB of metadata for an object")
        await self.catalog.setxattr(ino, name, value, req.unique)
        await self._xattrs_changed(inode)

    async def removexattr(self, req: Request, ino: int, name: bytes) -> None:
        if await self._xattr_set_before(req, ino):
            return
        self.check_writable()
        self._check_xattr(name)
        inode = await self.known(await self.catalog.get(ino))
        if await self.catalog.xattr(ino, name) is None:
            raise FsError(errno.ENODATA)
        await self.catalog.removexattr(ino, name, req.unique)
        await self._xattrs_changed(inode)

    async def _xattr_set_before(self, req: Request, ino: int) -> bool:
        if await self.done_before(req) is None:
            return False
        # Perhaps just before it was noted that the object has to follow, which is another
        # transaction.
        if (inode := await self.catalog.find(ino)) is not None:
            await self._xattrs_changed(inode)
        return True

    async def _xattrs_changed(self, inode: Inode) -> None:
        if self.options.posix:
            await self._set(await self.catalog.get(inode.ino), SetAttr(), attrs_dirty=True)
