"""Staged copies and the local disk: what a power loss leaves of them.

What a staged copy has of an object that the store has, or had in its place, is in the page cache
first. A power loss before it is on the disk leaves zeros, older bytes, or a file that is too short,
which must not take the object's place: so a staged copy is marked (``Mark.UNSYNCED``) from when it
is made, emptied or uploaded until it was made durable, by fsync(2) or half a minute later here. One
that still bears the mark after another boot is not sent (:mod:`csi_slayer.content.recovery`);
without it it has lost what any file of a local disk loses, and nothing that the store had.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from csi_slayer.cache import Staging
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content import overlay_map
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import NotKept, StagedFile
from csi_slayer.content.threads import to_its_end
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

AT_ONCE = 16
"""Files in one turn of the event loop: for each there may be a transaction."""

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
        self._turn = 0
        self._marked: dict[int, int] = {}  # as many
        self._settling = asyncio.Lock()
        self._watching = False
        self._complaints = Complaints(log)

    def note(self, ino: int) -> None:
        """The inode has a staged copy that was not made durable yet."""
        if ino not in self._due:
            self._due[ino] = asyncio.get_running_loop().time() + AFTER
        if not self._watching:
            self._watching = True
            self._spawn(self._watch())

    async def emptied(self, ino: int) -> None:
        """A staged copy is about to be: what it had does not count any more after a power loss."""
        self.marked(ino)  # first: a sync may end while this waits for the disk
        inode = await self._catalog.find(ino)
        if inode is not None and inode.stage is not None and not inode.flags & Mark.UNSYNCED:
            await self._catalog.update(ino, add=Mark.UNSYNCED)
            await self._catalog.synced()  # the disk may have the empty file in a moment

    def marked(self, ino: int) -> None:
        """It bears the mark anew: a sync that has begun before does not take it away."""
        self._turn += 1
        self._marked[ino] = self._turn
        self.note(ino)

    def forget(self, ino: int) -> None:
        """It has none any more."""
        self._due.pop(ino, None)
        self._marked.pop(ino, None)

    async def finish(self) -> None:
        """What is left to the next mount is on this disk alone, and the machine may be about to
        stop: make durable now what is not yet."""
        inos = list(self._due)
        self._due.clear()
        await self._settle(inos)

    async def sync(self, ino: int) -> None:
        """Policy writeback: the staged bytes and the journal survive a power loss after this.

        Raises FsError: once the disk has refused to keep the bytes, each time until the store has
        them. The kernel tells that to one call only, and takes the pages for written.
        """
        record = self._opened.get(ino)
        if record is not None and isinstance(record.file, StagedFile | OverlayFile):
            await self._sync(ino, record.file)
            inode = await self._catalog.find(ino)
            if inode is not None and inode.flags & Mark.UNWRITTEN and self._lacks(inode):
                raise FsError(errno.EIO, "the disk of the cache did not keep what was written")
        await self._catalog.synced()

    async def rebased(self, ino: int) -> None:
        """What was made durable of a partial copy is so again, over another version of the
        object."""
        record = self._opened.get(ino)
        if record is not None and isinstance(record.file, OverlayFile):
            with contextlib.suppress(FsError):  # who asks for it is told
                await self._sync(ino, record.file)

    def _lacks(self, inode: Inode) -> bool:
        """Whether the store lacks bytes that the disk has lost."""
        return inode.etag is None or self._objects.is_dirty(inode)

    async def _sync(self, ino: int, file: StagedFile | OverlayFile) -> None:
        record, turn = self._opened.get(ino), self._turn
        begun = 0
        if record is not None:
            begun = record.syncs_begun = record.syncs_begun + 1
        refused: list[NotKept] = []

        def sync(_unwanted: threading.Event) -> None:
            try:
                file.sync()
            except NotKept as error:
                refused.append(error)

        try:
            await to_its_end(sync)
        finally:
            if refused:  # also if nobody waits for it any more: it is told once
                self.marked(ino)
                await self._catalog.update(ino, add=Mark.UNSYNCED | Mark.UNWRITTEN | Mark.UNKEPT)
        if refused:
            raise refused[0]
        if record is not None:
            record.synced = max(record.synced, begun)
        await self._is_durable(ino, file.stage, turn)

    async def _is_durable(self, ino: int, stage: str, turn: int) -> None:
        """The staged copy was durable as it was at that turn."""
        inode = await self._catalog.find(ino)
        if inode is None or inode.stage != stage or self._marked.get(ino, 0) > turn:
            return
        if not inode.flags & (Mark.UNKEPT | Mark.SUSPECT) and inode.flags & Mark.UNSYNCED:
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
                try:
                    await self._settle(due)
                except SlayerError as error:  # of the journal: the marks stay on the disk
                    self._complaints.failed("journal", "marks are not durable", error)
        finally:
            self._watching = False

    async def _settle(self, inos: Sequence[int]) -> None:
        async with self._settling:
            await self._settle_all(inos)
            if inos:
                await self._catalog.synced()

    async def _settle_all(self, inos: Sequence[int]) -> None:
        turn = self._turn
        synced = await self._synced_together(inos) if len(inos) >= MANY else {}
        for number, ino in enumerate(inos):
            try:
                if (stage := synced.get(ino)) is not None:
                    await self._is_durable(ino, stage, turn)
                else:
                    await self._settle_one(ino)
            except Exception as error:  # of one file: the others are looked at all the same
                self._complaints.failed(ino, "a staged copy is not durable", error, ino=ino)
                self.note(ino)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _synced_together(self, inos: Sequence[int]) -> dict[int, str]:
        """Make everything on the cache's disk durable: which of these are by that, and the staged
        copies that they had."""
        stages = {}
        for number, ino in enumerate(inos):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            inode = await self._catalog.find(ino)
            if inode is not None and inode.stage is not None and not inode.flags & Mark.OVERLAY:
                stages[ino] = inode.stage
        try:
            await asyncio.to_thread(_sync_all, str(self._staging.directory))
        except OSError as error:  # which file it is each is asked for then
            self._complaints.failed("all", "syncing the cache's disk failed", error)
            return {}
        return stages

    async def _settle_one(self, ino: int) -> None:
        inode = await self._catalog.find(ino)
        if inode is None or inode.stage is None:
            return
        if inode.flags & Mark.OVERLAY:
            if overlay_map.is_current(self._staging.file(inode.stage), inode.etag or ""):
                return
        elif not inode.flags & Mark.UNSYNCED:
            return
        async with self._opened.held(ino) as record:
            async with record.lock:
                now = await self._catalog.find(ino)
                if now is None or now.stage != inode.stage:
                    return
                if not isinstance(record.file, StagedFile | OverlayFile):
                    record.file = await self._objects.open_stage(now)
                file = record.file
            await self._sync(ino, file)


def _sync_all(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)
