"""Staged copies and the local disk: what a power loss leaves of them.

What a staged copy has of an object that the store has, or had in its place, is in the page cache
first. A power loss before it is on the disk leaves zeros, or a file that is too short, which must
not take the object's place: so a new staged copy is marked (``Mark.UNSYNCED``) until it was made
durable once, by fsync(2) or half a minute later here, and one that still bears the mark after
another boot is not sent (:mod:`csi_slayer.content.recovery`). From then on it loses what any file
of a local disk loses.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from csi_slayer.cache import Staging
from csi_slayer.cache.staging import SIDECAR
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content import overlay_map
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import StagedFile
from csi_slayer.errors import FsError, SlayerError
from csi_slayer.observability.complaints import Complaints

log = structlog.get_logger(__name__)

AFTER = 30.0
"""Seconds after which a staged copy that is still there is made durable: about when the kernel
would begin to write it back by itself (``vm.dirty_expire_centisecs``)."""

LOOK = 1.0
"""Seconds between looks, at least: what is due comes in crowds."""

MANY = 16
"""So many due files are made durable by one syncfs(2)."""

_libc = ctypes.CDLL(None, use_errno=True)


class Durable:
    """Of one volume. ``spawn`` runs a coroutine that its owner ends."""

    def __init__(
        self,
        catalog: Catalog,
        opened: OpenInodes,
        objects: Objects,
        staging: Staging,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._catalog = catalog
        self._opened = opened
        self._objects = objects
        self._staging = staging
        self._spawn = spawn
        self._due: dict[int, float] = {}  # oldest first; no more than there are staged copies
        self._watching = False
        self._complaints = Complaints(log)

    def note(self, ino: int) -> None:
        """The inode has a staged copy that was not made durable yet."""
        if ino not in self._due:
            self._due[ino] = asyncio.get_running_loop().time() + AFTER
        if not self._watching:
            self._watching = True
            self._spawn(self._watch())

    def forget(self, ino: int) -> None:
        """It has none any more."""
        self._due.pop(ino, None)

    async def finish(self) -> None:
        """What is left to the next mount is on this disk alone, and the machine may be about to
        stop: make durable now what is not yet."""
        inos = list(self._due)
        self._due.clear()
        await self._settle(inos)
        await self._catalog.synced()

    async def sync(self, ino: int) -> None:
        """Policy writeback: the staged bytes and the journal survive a power loss after this.

        Raises FsError: once the disk has refused to keep the bytes, each time until the store has
        them. The kernel tells that to one call only, and takes the pages for written.
        """
        record = self._opened.get(ino)
        if record is not None and isinstance(record.file, StagedFile | OverlayFile):
            stage = record.file.stage
            try:
                await asyncio.to_thread(record.file.sync)
            except SlayerError:
                record.unwritten = True
                raise
            inode = await self._catalog.find(ino)
            if record.unwritten and inode is not None and self._objects.is_dirty(inode):
                raise FsError(errno.EIO, "the disk of the cache has lost what was written")
            record.unwritten = False
            await self._is_durable(ino, stage)
        await self._catalog.synced()

    async def _is_durable(self, ino: int, stage: str | None) -> None:
        inode = await self._catalog.find(ino)
        if inode is not None and inode.stage == stage and inode.flags & Mark.UNSYNCED:
            await self._catalog.update(ino, clear=Mark.UNSYNCED)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._due:
                first = next(iter(self._due.values()))
                await asyncio.sleep(max(LOOK, first - loop.time()))
                due = []
                for ino, when in self._due.items():
                    if when > loop.time():
                        break
                    due.append(ino)
                for ino in due:
                    del self._due[ino]
                await self._settle(due)
        finally:
            self._watching = False

    async def _settle(self, inos: Sequence[int]) -> None:
        if len(inos) >= MANY:
            try:
                await asyncio.to_thread(_sync_all, str(self._staging.directory))
            except OSError as error:  # which file it is each is asked for below
                self._complaints.failed("all", "syncing the cache's disk failed", error)
        for ino in inos:
            try:
                await self._settle_one(ino)
            except FileNotFoundError:
                continue  # it is staged no more
            except Exception as error:  # of one file: the others are looked at all the same
                self._complaints.failed(ino, "a staged copy is not durable", error, ino=ino)
                if isinstance(error, OSError) and (record := self._opened.get(ino)) is not None:
                    record.unwritten = True
                self.note(ino)

    async def _settle_one(self, ino: int) -> None:
        inode = await self._catalog.find(ino)
        if inode is None or inode.stage is None:
            return
        if inode.flags & (Mark.UNSYNCED | Mark.OVERLAY):
            await asyncio.to_thread(self._sync, inode)
            await self._is_durable(ino, inode.stage)

    def _sync(self, inode: Inode) -> None:
        """Blocks; after a syncfs only for as long as there is something new."""
        assert inode.stage is not None
        path = self._staging.file(inode.stage)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not inode.flags & Mark.OVERLAY:
                os.fdatasync(fd)
                return
            map_fd = os.open(path + SIDECAR, os.O_RDONLY | os.O_CLOEXEC)
            try:
                overlay_map.checkpoint(path, fd, map_fd)
            finally:
                os.close(map_fd)
        finally:
            os.close(fd)


def _sync_all(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)
