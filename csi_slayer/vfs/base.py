"""What the parts of the file system share: state, attributes, freshness, repeated requests."""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from csi_slayer.catalog import ROOT, Catalog, Gone, Inode
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.content import Content
from csi_slayer.content.hydration import Apart
from csi_slayer.content.opened import IoMode, OpenInode
from csi_slayer.errors import FsError, ObjectNotFound, PreconditionFailed, SlayerError
from csi_slayer.vfs import names
from csi_slayer.vfs.ahead import ListAhead
from csi_slayer.vfs.fetch_ahead import FetchAhead
from csi_slayer.vfs.handles import HandleTable
from csi_slayer.vfs.kept import Kept
from csi_slayer.vfs.late import Late
from csi_slayer.vfs.marks import Marks
from csi_slayer.vfs.opening import WholeFiles
from csi_slayer.vfs.options import VfsEvents, VfsOptions
from csi_slayer.vfs.refresh import Refresher
from csi_slayer.vfs.shown import Shown
from csi_slayer.vfs.stale import StalePages
from csi_slayer.vfs.types import Attr, Entry, Kernel, Request
from csi_slayer.vfs.unread import Unread

T = TypeVar("T")

OTHER_VERSION = (PreconditionFailed, ObjectNotFound, FsError)
"""Among these is what tells that an object is not the version that we knew; see
:meth:`Base.learn_anew`."""

REMOVED_KEPT = 1024
"""Removed inodes whose attributes are remembered until the kernel forgets them."""


def version_of(etag: str | None) -> int:
    """A handle's version: which object its bytes are of; 0 for a staged copy."""
    return 0 if etag is None else xxhash.xxh3_64_intdigest(etag.encode()) or 1


class NameMoved(FsError):
    """ESTALE, at which the kernel looks the name up again."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the name has another inode now")


class Base:
    """State of the volume's file system; the mixins on top of it have the calls."""

    def __init__(
        self,
        catalog: Catalog,
        make_content: Callable[[Callable[[int], None]], Content],
        options: VfsOptions,
        events: VfsEvents,
        handles_path: Path,
    ) -> None:
        self.catalog = catalog
        self.options = options
        self.live = options.live
        self.events = events
        self.content = make_content(self._content_changed)
        self.opened = self.content.opened
        self.handles = HandleTable(handles_path)
        self.content.objects.moved = self._version_moved
        self.content.stored_into = self._stored_into
        self.content.races.gone = self._name_gone
        catalog.uses = self
        self.refresh = Refresher(
            self.content.store,
            catalog,
            options.live,
            self._content_changed,
            self._name_gone,
            events.hidden_keys,
            self.content.options.write_timeout,
        )
        self._ahead = ListAhead(catalog, self.refresh, options.live)
        self._fetch_ahead = FetchAhead(catalog, self.content, self._ahead, options.live)
        self.unread = Unread(catalog, self.content, options.live, posix=options.posix)
        self._kernel: Kernel | None = None
        self._stale_pages = StalePages(lambda: catalog.next_ino)
        self._whole_files = WholeFiles(self.live)
        self._shown = Shown(lambda ino: self.kernel.invalidate_inode(ino))
        self.removed: OrderedDict[int, Inode] = OrderedDict()
        self._kept = Kept(self.opened, self.spawn)
        self._late = Late(self.opened, self.spawn, catalog.find, self.note_removed)
        self._read_once = Marks()
        self._seen = Marks()
        self._seen.add(ROOT)

    @property
    def zero_upcall(self) -> bool:
        return self.options.zero_upcall and self.options.read_only

    @property
    def read_only(self) -> bool:
        return self.options.read_only

    @property
    def kernel(self) -> Kernel:
        assert self._kernel is not None
        return self._kernel

    def attach(self, kernel: Kernel) -> None:
        self._kernel = kernel

    # -- what others changed ----------------------------------------------------------------

    def _content_changed(self, ino: int) -> None:
        """The store has another version of a file, or other names in a directory: the kernel's
        pages of it are stale."""
        if ino not in self._seen:
            return  # it has none
        self._stale_pages.add(ino)
        if self._kernel is not None:
            self._kernel.invalidate_inode(ino)

    def _stored_into(self, ino: int) -> None:
        """A staged file was changed through a mapping of it: the kernel's times are behind, and
        where it has pages of the mount's own, because somebody opened the file in a way that is
        not passed through, those are, too."""
        kernel, record = self._kernel, self.opened.get(ino)
        if kernel is None:
            return
        if kernel.passthrough and record is not None and record.mode == IoMode.CACHED:
            kernel.invalidate_inode(ino)
        else:
            kernel.invalidate_attributes(ino)

    def _version_moved(self, ino: int, old: str, new: str) -> None:
        """A successor of this worker must find the handles' version in the store."""
        self.handles.changed_version(ino, version_of(old), version_of(new))

    # -- what the catalog asks (Uses) -----------------------------------------------------------

    def is_open(self, ino: int) -> bool:
        return ino in self.opened or (self._opens_unseen and ino in self._seen)

    def is_seen(self, ino: int) -> bool:
        return ino in self._seen

    def is_read(self, ino: int) -> bool:
        record = self.opened.get(ino)
        if record is not None and isinstance(record.file, CleanFile):
            return True
        return self._opens_unseen and ino in self._read_once

    def is_settled(self, inode: Inode) -> bool:
        return self.content.is_settled(inode)

    def changing(self) -> Collection[int]:
        return self.opened.changing

    @property
    def _opens_unseen(self) -> bool:
        """Whether the kernel opens files without telling us: anybody may have any file open."""
        return self._kernel is not None and self._kernel.opens_unseen

    def _name_gone(self, gone: Gone) -> None:
        inode = gone.inode
        if self._kernel is not None:
            if inode.ino in self._seen:  # else it has at most the bare name
                self._kernel.invalidate_entry(gone.parent, gone.name.encode())
            self._content_changed(gone.parent)
        if gone.kept:
            if not self.unlinked_while_open(inode.ino) or self._opens_unseen:
                self._kept.add(inode.ino)
            return
        if inode.ino in self._seen:
            self.note_removed(inode)
        if inode.stage is not None:
            self.spawn(self.content.removed(inode))

    async def part(self, record: OpenInode, *, writable: bool) -> None:
        """Let go of an older version, before somebody opens the inode or cuts it. If handles are
        open on it, the inode stays theirs, without a name, and the name gets another inode.

        Raises NameMoved then.
        """
        inode, file = await self.catalog.get(record.ino), record.file
        if not isinstance(file, CleanFile) or file.source.etag == inode.etag:
            if record.is_apart and (writable or self._backs_another(record, inode)):
                raise await self.split(record)
            return
        if record.users == 1:
            record.file = None
            await file.close()
            return
        moved = await self.split(record)
        await self.catalog.update(inode.ino, size=file.source.size, etag=file.source.etag)
        raise moved

    async def at_present(
        self, record: OpenInode, call: Callable[[Inode], Awaitable[T]], *, writable: bool
    ) -> T:
        """``call`` of the inode, once more if the object turned out to be another version.

        Called with ``record.lock`` held. Raises what ``call`` raises, and NameMoved.
        """
        for again in (False, True):
            await self.part(record, writable=writable)
            inode = await self.catalog.get(record.ino)
            if writable:
                self._check_not_lost(inode)
                self.opened.changing.add(record.ino)
            try:
                return await call(inode)
            except Apart:
                raise await self.split(record) from None
            except OTHER_VERSION as error:
                if again:
                    raise
                other = error
            finally:
                self.opened.changing.discard(record.ino)
            await self.learn_anew(inode, other)
            await self.check_named(inode)
        raise AssertionError

    async def check_named(self, before: Inode) -> None:
        """Raises NameMoved if the name was taken from the inode since: who reads the version that
        it has keeps that."""
        if before.nlink and (await self.catalog.get(before.ino)).nlink == 0:
            raise NameMoved()

    @staticmethod
    def _check_not_lost(inode: Inode) -> None:
        """The kernel may still have had the name for a version that others have replaced: changes
        of that would be nowhere, and who opens the name wants the other. Raises NameMoved."""
        if inode.lost is not None:
            raise NameMoved()

    def _backs_another(self, record: OpenInode, inode: Inode) -> bool:
        """Whether a handle's version is not the inode's: what is mapped is not what is read."""
        if inode.stage is not None:
            return True
        return self.handles.versions(record.ino) != {version_of(inode.etag)}

    async def split(self, record: OpenInode) -> NameMoved:
        """The inode stays that of who has it open, without a name, and the name gets another one
        with the same content: the kernel has one page cache and one backing file for an inode.

        Returns NameMoved.
        """
        inode = await self.catalog.get(record.ino)
        name = self.catalog.name_of(inode.ino, inode.parent)
        if name is not None:
            gone, new = await self.catalog.split(inode, name)
            if inode.ino in self.opened.mappable:
                self.opened.mappable.add(new.ino)
            if new.stage is not None:
                self.content.durable.note(new.ino)
            self._name_gone(gone)
        return NameMoved()

    def unlinked_while_open(self, ino: int) -> bool:
        """An inode lost its name: mark it if it is open, to be forgotten at the last close."""
        record = self.opened.get(ino)
        if record is None:
            return False
        record.unlinked = True
        self.content.uploader.name_lost(ino)
        return True

    # -- attributes -------------------------------------------------------------------------

    def staged_stat(self, inode: Inode) -> os.stat_result | None:
        """The stat of the staged copy, whose size and mtime are the file's."""
        return self.content.objects.staged_stat(inode)

    def attr(self, inode: Inode) -> Attr:
        """An inode's attributes as the kernel is to see them."""
        size, mtime, ctime = inode.size, inode.mtime_ns, inode.ctime_ns
        if inode.stage is not None and (found := self.staged_stat(inode)) is not None:
            size, mtime = found.st_size, found.st_mtime_ns
            if ctime < mtime <= time.time_ns():  # else somebody set it to a time to come
                ctime = mtime
        elif inode.target is not None:
            size = len(inode.target.encode())
        return Attr(
            inode.ino, inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, size,
            -(-size // 512), inode.atime_ns, mtime, ctime,
        )  # fmt: skip

    async def learn_anew(self, inode: Inode, error: SlayerError) -> None:
        """After one of :data:`OTHER_VERSION`: ask the store for the version that the object has
        now, so that what failed can be tried once more. Raises an ``error`` that is another."""
        if error.errno not in (errno.ESTALE, errno.ENOENT):
            raise error
        await self.refresh.revalidate(inode)

    def is_changed_here(self, inode: Inode) -> bool:
        """Whether the store is still to learn of the inode, or may be at any moment: what others
        do to the object is not looked at."""
        return (
            (inode.stage is not None and not self.content.is_settled(inode))
            or (inode.etag is None and not inode.is_dir)
            or inode.origin is not None
        )

    def ttl(self, inode: Inode) -> float:
        """Seconds for which the kernel may believe the attributes."""
        if self.is_changed_here(inode) or inode.ino == ROOT:
            return self.live.metadata_ttl
        return self.refresh.remaining(inode.checked_ns)

    def entry(self, inode: Inode, parent: Inode | None = None) -> Entry:
        """What tells the kernel of an inode."""
        self._seen.add(inode.ino)
        ttl = self.ttl(inode)
        if parent is not None:
            ttl = max(ttl, self.refresh.remaining(parent.listed_ns))
        return Entry(self.attr(inode), ttl, ttl)

    def note_removed(self, inode: Inode) -> None:
        """Who works in a removed directory, or has a fifo open or what was opened with O_PATH, of
        which we are not told, can still ask for its attributes."""
        self.removed[inode.ino] = inode._replace(nlink=0)
        if len(self.removed) > REMOVED_KEPT:
            self.removed.popitem(last=False)

    async def check_new(self, parent: int, name: str) -> None:
        """Refuse a new name that would be hidden, or whose key would be too long for the store."""
        names.check_new(name, parent == ROOT)
        path = await self.catalog.path(parent) or ""
        # A slash comes before the name, and behind it if it is a directory's.
        if len(path.encode()) + len(name.encode()) + 2 > self.content.store.key_maximum:
            raise FsError(errno.ENAMETOOLONG, "the object's key would be too long")

    @property
    def negative(self) -> Entry:
        return Entry(None, self.live.negative_ttl, 0.0)

    async def known(self, inode: Inode) -> Inode:
        """An inode that is about to be changed, see :meth:`Unread.known`. Raises NameMoved."""
        inode = await self.unread.known(inode, away=self.refresh.away)
        self._check_not_lost(inode)
        return inode

    # -- shared checks ----------------------------------------------------------------------

    def check_writable(self) -> None:
        if self.options.read_only:
            raise FsError(errno.EROFS)

    async def directory(self, ino: int) -> Inode:
        inode = await self.catalog.get(ino)
        if not inode.is_dir:
            raise FsError(errno.ENOTDIR)
        self._kept.used(ino)
        return inode

    async def done_before(self, req: Request) -> int | None:
        """What a resent request had already made (its inode, or 0); None if it was never done."""
        return await self.catalog.completed(req.unique) if req.resent else None

    def changed_names(self) -> None:
        """Names changed: the store is to follow."""
        self.content.reconciler.kick()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.content.spawn(coroutine)
