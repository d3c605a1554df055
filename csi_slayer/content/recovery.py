"""What an earlier worker left staged, and what becomes of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from csi_slayer.cache import Conflicts, Staging
from csi_slayer.catalog import Catalog, Inode, Mark
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

RECOGNISE = 5.0
"""Seconds that a start waits for the store to say which uploads had succeeded."""

ASKED = 16
"""Objects that it is asked for at once."""


class Recovery:
    """Of one volume, at the start of its worker. ``note_dirty`` queues the upload of a file,
    ``retire_soon`` makes a copy that the store has a segment."""

    def __init__(
        self,
        catalog: Catalog,
        objects: Objects,
        staging: Staging,
        conflicts: Conflicts,
        opened: OpenInodes,
        note_dirty: Callable[[Inode], Awaitable[None]],
        retire_soon: Callable[[int], None],
    ) -> None:
        self._catalog = catalog
        self._objects = objects
        self._staging = staging
        self._conflicts = conflicts
        self._opened = opened
        self._note_dirty = note_dirty
        self._retire_soon = retire_soon

    async def recover(self) -> None:
        """Queue what the store lacks, remove what is nobody's. Raises CacheError."""
        known: set[str] = set()
        dirty: list[Inode] = []
        is_new = self._catalog.is_new
        for inode in list(self._catalog.each_staged()):
            assert inode.stage is not None
            known.add(inode.stage)
            self._opened.mappable.add(inode.ino)  # for all that we know
            if self._objects.staged_stat(inode) is None:
                await self._lost(inode)
            elif self._objects.is_dirty(inode):
                dirty.append(inode)
            else:
                self._retire_soon(inode.ino)
        for stage in self._staging.list():
            if stage.id not in known:
                if is_new and os.stat(stage.file).st_size:
                    self._keep(stage.id)
                else:
                    self._staging.remove(stage.id)

        await self._recognise(dirty)
        for inode in dirty:
            await self._note_dirty(await self._catalog.get(inode.ino))

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

    async def _lost(self, inode: Inode) -> None:
        """A staged copy is missing: it became a segment just before a crash, or somebody deleted
        it; the store's version, if any, is what is left."""
        values: dict[str, Any] = {}
        if inode.etag is None or inode.stamp is None or inode.stamp != inode.mtime_ns:
            log.error("staged copy lost", ino=inode.ino, stage=inode.stage)
            # The size was the lost bytes'. A version that no object has: a listing mends it.
            values = {"size": 0} if inode.etag is None else {"etag": "lost"}
        await self._catalog.update(inode.ino, clear=Mark.OVERLAY, stage=None, stamp=None, **values)
