"""Opens that wait for the whole file, so that the kernel reads it by itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, NamedTuple

from csi_slayer.content.clean import CleanFile
from csi_slayer.content.opened import OpenInode
from csi_slayer.content.options import Live
from csi_slayer.errors import StoreError
from csi_slayer.scheduling.whole import LARGE, WholeReads

LONGEST: Final = 3.0
"""Seconds within which all of a file has to be there, if nobody said how long to wait."""

LOOK: Final = 0.25
"""Seconds between two looks at whether it will be."""

PAUSE: Final = 60.0
"""Seconds for which no open waits where there was not the memory for a file."""


class _Watched(NamedTuple):
    since: float
    is_whole: bool


class WholeFiles:
    """How long is set by ``live.open_wait``; with None, only for large files, as long as they are
    read whole and come so fast that the wait is short."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._reads = WholeReads()
        self._watched: dict[int, _Watched] = {}
        self._not_before = 0.0

    async def fetch(self, record: OpenInode, file: CleanFile) -> None:
        """Have a file that is opened, and not in the cache, fetched whole; what is not there in
        time the reads wait for, and what the store does not give they tell. Raises FsError."""
        seconds = self._live.open_wait
        if seconds:
            with contextlib.suppress(TimeoutError, StoreError):
                async with asyncio.timeout(seconds):
                    await file.fill()
        elif seconds is None and file.size >= LARGE and self._live.prefetch:
            is_whole = self._reads.expected(file.size) and await self._comes_soon(file)
            now = asyncio.get_running_loop().time()
            self._watched[record.ino] = _Watched(now, is_whole)

    def closed(self, record: OpenInode) -> None:
        """The last handle of a file is gone."""
        watched = self._watched.pop(record.ino, None)
        if watched is None or not isinstance(record.file, CleanFile):
            return
        if watched.is_whole:
            seconds = asyncio.get_running_loop().time() - watched.since
            self._reads.held(record.file.size, seconds)
        else:
            self._reads.read(record.file.size, record.file.served)

    async def _comes_soon(self, file: CleanFile) -> bool:
        """Fetch all of a file, unless at the rate at which it comes that takes too long, or its
        first bytes leave the page cache before the last ones are there: all would come from the
        disk."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if begun < self._not_before:
            return False
        was_in_memory = file.is_in_memory  # else it was read long ago: what comes now tells nothing
        filling = loop.create_task(file.fill())
        try:
            while not filling.done():
                await asyncio.wait((filling,), timeout=LOOK)
                if was_in_memory and not file.is_in_memory:
                    self._not_before = loop.time() + PAUSE
                    break
                if (loop.time() - begun) * file.size > LONGEST * max(1, file.fetched):
                    break
            with contextlib.suppress(StoreError):
                return filling.done() and filling.result()
            return False
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
