"""What an earlier worker left staged, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from csi_slayer.cache import Conflicts, Staging
from csi_slayer.cache.header import boot_generation
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content import overlay_map
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.staged import os_errors
from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

RECOGNISE = 5.0
"""Seconds that a start waits for the store to say which uploads had succeeded."""

ASKED = 16
"""Objects that it is asked for at once."""


class Recovery:
    """Of one volume, at the start of its worker. ``note_dirty`` queues the upload of a file,
    ``retire_soon`` makes a copy that the store has a segment, ``undurable`` has one synced."""

    def __init__(
        self,
        catalog: Catalog,
        objects: Objects,
        staging: Staging,
        conflicts: Conflicts,
        opened: OpenInodes,
        note_dirty: Callable[[Inode], Awaitable[None]],
        retire_soon: Callable[[int], None],
        undurable: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._objects = objects
        self._staging = staging
        self._conflicts = conflicts
        self._opened = opened
        self._note_dirty = note_dirty
        self._retire_soon = retire_soon
        self._undurable = undurable

    async def recover(self) -> None:
        """Queue what the store lacks, remove what is nobody's. Raises CacheError."""
        known: set[str] = set()
        dirty: list[int] = []
        is_new = self._catalog.is_new
        booted = self._catalog.boot not in (None, boot_generation())
        for inode in list(self._catalog.each_staged()):
            assert inode.stage is not None
            known.add(inode.stage)
            self._opened.mappable.add(inode.ino)  # for all that we know
            found = self._objects.staged_stat(inode)
            if found is None:
                await self._lost(inode, booted=booted)
                continue
            if booted and not await self._survived(inode):
                continue
            self._undurable(inode.ino)
            if self._objects.is_dirty(inode):
                dirty.append(inode.ino)
            else:
                if found.st_size != inode.size:  # it was about to grow, which was counted already
                    await self._catalog.update(inode.ino, size=found.st_size)
                self._retire_soon(inode.ino)
        for stage in self._staging.list():
            if stage.id not in known:
                if is_new and stage.path.exists() and stage.path.stat().st_size:
                    self._keep(stage.id)
                else:
                    self._staging.remove(stage.id)
        await self._catalog.booted(boot_generation())

        await self._recognise([await self._catalog.get(ino) for ino in dirty])
        for ino in dirty:
            if (now := await self._catalog.find(ino)) is not None and now.stage is not None:
                await self._note_dirty(now)

    def _keep(self, stage: str) -> None:
        kept = self._conflicts.keep(self._staging, stage, key=None, expected=None, found=None)
        log.error("staged file without a name", kept_at=str(kept),
                  reason="the catalog that knew it is gone")  # fmt: skip

    async def _recognise(self, inodes: Sequence[Inode]) -> None:
        try:
            async with asyncio.timeout(RECOGNISE):
                for start in range(0, len(inodes), ASKED):
                    some = inodes[start : start + ASKED]
                    await asyncio.gather(*(self._recognise_one(inode) for inode in some))
        except TimeoutError:
            log.warning("not known yet what was uploaded", reason="the store does not answer")

    async def _recognise_one(self, inode: Inode) -> None:
        try:
            await self._objects.recognise_partial(inode)
        except SlayerError as error:
            log.warning("not known yet what was uploaded", ino=inode.ino, error=str(error))

    async def _survived(self, inode: Inode) -> bool:
        """After another boot: whether a staged copy is what was written, or at worst what a file of
        a local disk would be. It is not if it may lack bytes that came from the store, or be older
        than what the store has. Then it is no more: the store's version is what is left, and what
        may have been changed is kept aside."""
        assert inode.stage is not None
        found = self._objects.staged_stat(inode)
        assert found is not None
        if found.st_mtime_ns == inode.stamp:  # not a segment: its bytes may be older than its time
            self._staging.remove(inode.stage)
            if inode.mtime_ns != inode.stamp:  # changed, and that never came to the disk
                await self._catalog.torn(inode)
            else:
                await self._catalog.unstaged(inode.ino)
            return False
        if await self._is_whole(inode):
            # Until the store has it: more may have been uploaded than the catalog can know.
            mtime_ns = found.st_mtime_ns
            await self._catalog.update(inode.ino, add=Mark.SUSPECT, mtime_ns=mtime_ns)
            return True
        key = await self._catalog.path(inode.ino)
        expected = await self._expected(inode)
        kept = self._conflicts.keep(
            self._staging, inode.stage, key=key, expected=expected, found=None
        )
        log.error("staged copy not durable before a power loss", key=key, kept_at=str(kept))
        await self._catalog.torn(inode)
        return False

    async def _is_whole(self, inode: Inode) -> bool:
        assert inode.stage is not None
        if inode.flags & Mark.OVERLAY:
            with os_errors():
                return overlay_map.restore(self._staging.file(inode.stage), inode.etag or "")
        return not inode.flags & Mark.UNSYNCED or await self._expected(inode) == ""

    async def _expected(self, inode: Inode) -> str | None:
        """The version of the object that the store has in the place of the staged copy: '' for no
        object, None for unknown."""
        if inode.etag is not None:
            return inode.etag
        key = await self._catalog.path(inode.ino)
        row = await self._catalog.pending(key) if key is not None else None
        return "" if row is None else row.expect

    async def _lost(self, inode: Inode, *, booted: bool) -> None:
        """A staged copy is missing: it became a segment just before a crash, or somebody deleted
        it; the store's version, if any, is what is left."""
        values: dict[str, Any] = {}
        if inode.etag is None or inode.stamp is None or inode.stamp != inode.mtime_ns:
            log.error("staged copy lost", ino=inode.ino, stage=inode.stage)
            # After another boot it may have been uploaded, and that be forgotten.
            if booted or await self._expected(inode) != "":
                await self._catalog.torn(inode)
                return
            values = {"size": 0}  # the size was the lost bytes'
        await self._catalog.update(inode.ino, clear=Mark.OVERLAY, stage=None, stamp=None, **values)
