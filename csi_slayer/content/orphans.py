"""The rows of files without a name, after their last close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from csi_slayer.catalog import Catalog
from csi_slayer.content.opened import OpenInodes
from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

LEFT = 65536
"""Rows that could not be dropped and are tried again; those beyond go with the next start."""

PAUSE = 5.0
"""Seconds between two tries."""


class Orphans:
    """On a full disk a row cannot be dropped, and nobody comes again to do it. ``kick`` is told
    that the store has something to follow; ``spawn`` runs a coroutine that its owner ends."""

    def __init__(
        self,
        catalog: Catalog,
        opened: OpenInodes,
        kick: Callable[[], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._catalog = catalog
        self._opened = opened
        self._kick = kick
        self._spawn = spawn
        self._left: set[int] = set()
        self._trying = False

    async def drop(self, ino: int) -> None:
        """Drop the row of an inode that nobody has open, now or as soon as that can be done."""
        try:
            await self._catalog.drop_orphan(ino)
        except SlayerError as error:
            if len(self._left) < LEFT:
                self._left.add(ino)
            if not self._trying:
                self._trying = True
                log.warning("unlinked files are forgotten later", ino=ino, error=str(error))
                self._spawn(self._try_again())
        else:
            self._kick()

    async def _try_again(self) -> None:
        try:
            while self._left:
                await asyncio.sleep(PAUSE)
                await self._try_all()
        finally:
            self._trying = False

    async def _try_all(self) -> None:
        for ino in list(self._left):
            if ino in self._opened:
                continue
            try:
                await self._catalog.drop_orphan(ino)
            except SlayerError:
                break  # so it will be with the others
            self._left.discard(ino)
            await asyncio.sleep(0)
        self._kick()
