"""Making a file that has an object fit for writing: its staged copy, whole or partial."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from csi_slayer.cache import Staging
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInode
from csi_slayer.content.options import ContentOptions
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.small import Source
from csi_slayer.content.staged import StagedFile, copy_range, discarding, os_errors
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import FsError


class Apart(FsError):
    """The kernel has a backing file for the inode, and another local file would have to be changed:
    what is mapped would not be what is read."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, "the inode has a backing file that cannot be written to")


class Hydration:
    """A small file, or one that is in the cache, becomes the staged copy as a whole; of a larger
    one the blocks that are changed (see :mod:`csi_slayer.content.overlay`)."""

    def __init__(
        self,
        catalog: Catalog,
        staging: Staging,
        objects: Objects,
        open_clean: Callable[[Source], CleanFile],
        options: ContentOptions,
    ) -> None:
        self._catalog = catalog
        self._staging = staging
        self._objects = objects
        self._open_clean = open_clean
        self._options = options

    async def staged(self, record: OpenInode, inode: Inode) -> StagedFile | OverlayFile:
        """The staged copy of an inode that has an object and no staged copy yet.

        Called with ``record.lock`` held. Raises FsError(ESTALE) if the object is another one by
        now, Apart, CacheFull.
        """
        if isinstance(record.file, CleanFile):
            return await self._staged(record, record.file, inode)
        clean = self._open_clean(await self._objects.source_of(inode))
        try:
            return await self._staged(record, clean, inode)
        finally:
            await clean.close()

    async def _staged(
        self, record: OpenInode, clean: CleanFile, inode: Inode
    ) -> StagedFile | OverlayFile:
        reader = await clean.open_segment()
        if record.backing_id and not record.is_backed_by(clean.whole_fd):
            raise Apart
        complete = reader is not None and clean.whole_fd is not None
        if not complete and inode.size <= self._options.hydrate_max:
            complete = await clean.fill()
        if complete:
            return await self._surrendered(record, clean, inode)
        return await self._overlaid(record, clean, inode)

    async def _surrendered(
        self, record: OpenInode, clean: CleanFile, inode: Inode
    ) -> StagedFile | OverlayFile:
        """The complete segment becomes the staged copy, without copying unless it is shared."""
        stage = self._staging.reserve()
        path = stage.file
        source = None
        fd = await clean.surrender(path)
        if fd is None:
            if record.backing_id:
                raise Apart
            if inode.size > self._options.hydrate_max:
                return await self._overlaid(record, clean, inode)
            source = clean.whole_fd
            assert source is not None
            with os_errors():
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        file = StagedFile(stage.id, path, fd)
        async with discarding(self._staging, file):
            if source is not None:
                await to_its_end(partial(copy_range, source, 0, fd, 0, inode.size))
                await self._done_with(record, clean)
            await self._note(clean, inode, file, Mark.NONE)
        return file

    async def _overlaid(self, record: OpenInode, clean: CleanFile, inode: Inode) -> OverlayFile:
        stage = self._staging.create()
        async with discarding(self._staging, StagedFile(stage.id, stage.file, stage.fd)):
            file = OverlayFile(stage.id, stage.file, stage.fd, self._open_clean(clean.source))
        async with discarding(self._staging, file):
            await self._done_with(record, clean)
            await self._note(clean, inode, file, Mark.OVERLAY)
        return file

    @staticmethod
    async def _done_with(record: OpenInode, clean: CleanFile) -> None:
        """Here, for nothing may suspend once the catalog knows the staged copy. What others read
        from is not closed before the record has another file: this may fail yet."""
        if clean is not record.file:
            await clean.close()

    async def _note(
        self, clean: CleanFile, inode: Inode, file: StagedFile | OverlayFile, mark: int
    ) -> None:
        """Have the catalog know the staged copy. Suspends nowhere.

        The inode may have another version by now. What was fetched, once written to, would be sent
        as a change of that one and take its place.
        """
        now = await self._catalog.get(inode.ino)
        if now.etag != clean.source.etag:
            raise FsError(errno.ESTALE, "the object changed while it was opened for writing")
        with os_errors():
            os.utime(file.fd, ns=(now.atime_ns, now.mtime_ns))
        await self._catalog.update(
            now.ino, add=mark | Mark.UNSYNCED, stage=file.stage, stamp=now.mtime_ns
        )
