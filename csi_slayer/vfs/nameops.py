"""Names: lookup, making, removing, renaming. Each change is one transaction of the catalog; the
store follows from its pending table."""

from __future__ import annotations

import errno
import stat

from csi_slayer.catalog import ROOT, Inode
from csi_slayer.content import metadata
from csi_slayer.content.options import SCRATCH
from csi_slayer.errors import FsError
from csi_slayer.vfs import names
from csi_slayer.vfs.room import Room
from csi_slayer.vfs.types import Entry, Request

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

RENAME_LOOKS = 8
"""Times that a rename looks again because others changed what its names stand for."""

SYMLINK_MAX = 1024
"""Bytes of a symlink's target: it is kept in user metadata, of which S3 takes 2 KiB."""


class NameOps(Room):
    """See :class:`csi_slayer.vfs.operations.Operations`."""

    async def find_child(self, parent: int, name: str) -> tuple[Inode, Inode | None]:
        """The directory and the child of that name, fresh as the TTL asks."""
        directory = await self.directory(parent)
        inode = await self.catalog.child(parent, name)
        if self.refresh.is_fresh(directory.listed_ns):
            return directory, inode
        if inode is not None and (
            self.refresh.is_fresh(inode.checked_ns) or self.is_changed_here(inode)
        ):
            return directory, inode
        if parent == ROOT and name == SCRATCH:
            return directory, None
        known = inode is not None or directory.listed_ns > 0
        await self.refresh.name(directory, name, known=known)
        return await self.directory(parent), await self.catalog.child(parent, name)

    async def lookup(self, req: Request, parent: int, name: bytes) -> Entry:
        directory, inode = await self.find_child(parent, names.decode(name))
        if inode is None:
            return self.negative
        if self.unread.is_unread(inode):
            inode = await self.unread.look(inode)
        return self.entry(inode, directory)

    def forget(self, ino: int, count: int) -> None:
        """Little is kept per lookup: inode numbers are the catalog's and never used again."""
        self.removed.pop(ino, None)
        self._stale_pages.forgotten(ino)
        self._kept.forgotten(ino)
        self._late.forgotten(ino)

    def unsent(self, ino: int) -> None:
        """Answers are not counted."""

    async def _free_name(self, parent: int, name: bytes) -> tuple[Inode, str]:
        """A directory and a name in it at which something new may be made. Raises EEXIST and
        what else is wrong."""
        self.check_writable()
        text = names.decode(name)
        await self.check_new(parent, text)
        directory, inode = await self.find_child(parent, text)
        if inode is not None:
            raise FsError(errno.EEXIST)
        return directory, text

    async def _made(self, req: Request) -> Entry | None:
        ino = await self.done_before(req)
        return None if ino is None else self.entry(await self.catalog.get(ino))

    async def _make(
        self,
        req: Request,
        parent: int,
        name: bytes,
        mode: int,
        target: str | None = None,
    ) -> Entry:
        if (made := await self._made(req)) is not None:
            return made
        directory, text = await self._free_name(parent, name)
        inode = await self.catalog.make(
            parent, text, mode=mode, uid=req.uid, gid=self.group(req, directory),
            target=target, request=req.unique,
        )  # fmt: skip
        self.changed_names()
        return self.entry(inode)

    @staticmethod
    def group(req: Request, directory: Inode) -> int:
        """The group of a new inode: a setgid directory passes on its own."""
        return directory.gid if directory.mode & stat.S_ISGID else req.gid

    async def mknod(self, req: Request, parent: int, name: bytes, mode: int, rdev: int) -> Entry:
        if stat.S_IFMT(mode) not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise FsError(errno.EPERM, "device files are not kept in an object store")
        return await self._make(req, parent, name, mode)

    async def mkdir(self, req: Request, parent: int, name: bytes, mode: int) -> Entry:
        directory = await self.catalog.get(parent)
        inherited = directory.mode & stat.S_ISGID
        return await self._make(req, parent, name, stat.S_IFDIR | stat.S_IMODE(mode) | inherited)

    async def symlink(self, req: Request, parent: int, name: bytes, target: bytes) -> Entry:
        if len(target) > SYMLINK_MAX:
            raise FsError(errno.ENAMETOOLONG)
        try:
            text = target.decode()
        except UnicodeDecodeError as error:
            raise FsError(errno.EILSEQ) from error
        if metadata.stored_length(text) > metadata.TEXT_LIMIT:
            raise FsError(errno.ENAMETOOLONG, "S3 keeps 2 KiB of metadata for an object")
        return await self._make(req, parent, name, stat.S_IFLNK | 0o777, target=text)

    async def readlink(self, req: Request, ino: int) -> bytes:
        inode = self.removed.get(ino) or await self.catalog.get(ino)
        if inode.target is None:
            raise FsError(errno.EINVAL)
        return inode.target.encode()

    async def link(self, req: Request, ino: int, new_parent: int, new_name: bytes) -> Entry:
        raise FsError(errno.EPERM, "an object has one key: no hard links in the objects layout")

    async def _to_remove(self, parent: int, name: bytes) -> tuple[str, Inode]:
        """A name as text and what it stands for. Raises EROFS, ENOENT."""
        self.check_writable()
        text = names.decode(name)
        _directory, inode = await self.find_child(parent, text)
        if inode is None:
            raise FsError(errno.ENOENT)
        return text, inode

    async def unlink(self, req: Request, parent: int, name: bytes) -> None:
        if await self.done_before(req) is not None:
            return
        text, inode = await self._to_remove(parent, name)
        if inode.is_dir:
            raise FsError(errno.EISDIR)
        await self._remove(req, parent, text, inode)

    async def _remove(self, req: Request, parent: int, name: str, inode: Inode) -> None:
        keep = self._is_kept(inode)
        await self.catalog.remove(parent, name, inode, keep=keep, request=req.unique)
        self.changed_names()  # before the wait, in which the request may be cancelled
        await self._nameless(inode, keep)

    def _is_kept(self, inode: Inode) -> bool:
        """Whether an inode that is to lose its name stays in the table."""
        return inode.ino in self.opened or self._may_be_late(inode)

    def _may_be_late(self, inode: Inode) -> bool:
        """Whether somebody may be about to open it, see :mod:`csi_slayer.vfs.late`."""
        return inode.is_file and self._late.expected(inode.parent) and inode.ino in self._seen

    async def _nameless(self, inode: Inode, kept: bool) -> None:
        """An inode has lost its name; it was ``kept`` in the table if it is open, or may be."""
        if kept and (inode.ino not in self.opened or self._may_be_late(inode)):
            self._late.keep(inode.ino)
        if not (kept and self.unlinked_while_open(inode.ino)):
            self.note_removed(inode)
            await self.content.removed(inode)

    async def rmdir(self, req: Request, parent: int, name: bytes) -> None:
        if await self.done_before(req) is not None:
            return
        text, inode = await self._to_remove(parent, name)
        await self._check_empty(inode)
        await self._remove(req, parent, text, inode)

    async def _check_empty(self, inode: Inode) -> None:
        if not inode.is_dir:
            raise FsError(errno.ENOTDIR)
        if await self.catalog.is_empty(inode.ino):
            await self.refresh.ensure_listed(inode, stale=True)
        if not await self.catalog.is_empty(inode.ino):
            raise FsError(errno.ENOTEMPTY)

    async def rename(
        self,
        req: Request,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
    ) -> None:
        if await self.done_before(req) is not None:
            return
        self.check_writable()
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise FsError(errno.EINVAL)
        source, target = names.decode(name), names.decode(new_name)
        await self.check_new(new_parent, target)
        await self.find_child(parent, source)
        await self.find_child(new_parent, target)
        inode, other = await self._both(parent, source, new_parent, target)
        for _ in range(RENAME_LOOKS):
            if other is not None and other.ino == inode.ino:
                return
            await self._check_not_below(inode, new_parent)
            if flags & RENAME_EXCHANGE:
                if other is None:
                    raise FsError(errno.ENOENT)
                await self._check_not_below(other, parent)
            await self._prepare(inode, other, flags)
            before = inode.ino, other and other.ino
            # What was looked up before may be what was then: an upload that has ended meanwhile
            # gave the file a version, and with it a key that has to move.
            inode, other = await self._both(parent, source, new_parent, target)
            if (inode.ino, other and other.ino) == before:
                break
        else:
            raise FsError(errno.EBUSY, "others change the names faster than they can be listed")
        # From the look on to the transaction nothing suspends.
        if other is not None and flags & RENAME_EXCHANGE:
            await self.catalog.exchange(
                inode, parent, source, other, new_parent, target, request=req.unique
            )
            self.changed_names()
        else:
            await self._move(req, inode, parent, source, other, new_parent, target)

    async def _both(
        self, parent: int, name: str, new_parent: int, new_name: str
    ) -> tuple[Inode, Inode | None]:
        """What the names stand for now. Raises ENOENT. Suspends nowhere."""
        inode = await self.catalog.child(parent, name)
        if inode is None:
            raise FsError(errno.ENOENT)
        return inode, await self.catalog.child(new_parent, new_name)

    async def _prepare(self, inode: Inode, other: Inode | None, flags: int) -> None:
        """Refuse what cannot be, and have the names below a directory known: all of their keys
        move with it."""
        if flags & RENAME_EXCHANGE:
            for one in (inode, other):
                if one is not None and one.is_dir:
                    await self.refresh.ensure_tree(one, stale=True)
            return
        if other is not None:
            if flags & RENAME_NOREPLACE:
                raise FsError(errno.EEXIST)
            if inode.is_dir:
                await self._check_empty(other)
            elif other.is_dir:
                raise FsError(errno.EISDIR)
        if inode.is_dir:
            await self.refresh.ensure_tree(inode, stale=True)

    async def _check_not_below(self, inode: Inode, directory: int) -> None:
        """A directory cannot move into itself."""
        while inode.is_dir and directory != ROOT:
            if directory == inode.ino:
                raise FsError(errno.EINVAL)
            directory = (await self.catalog.get(directory)).parent

    async def _move(
        self,
        req: Request,
        inode: Inode,
        parent: int,
        name: str,
        other: Inode | None,
        new_parent: int,
        new_name: str,
    ) -> None:
        keep = other is not None and self._is_kept(other)
        await self.catalog.rename(
            inode, parent, name, new_parent, new_name,
            displaced=other, keep_displaced=keep, request=req.unique,
        )  # fmt: skip
        self.changed_names()  # before the wait, in which the request may be cancelled
        if other is not None:
            await self._nameless(other, keep)
