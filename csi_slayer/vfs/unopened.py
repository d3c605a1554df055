"""Files that are read without an open: on volumes without upcalls the kernel does not tell.

To open one anew for each read would cost more than the read, so those read lately stay open. What
is open cannot be evicted, and the cache is all volumes' of the node: so what nobody reads any more
is let go of, and of much that is read in a crowd what was not asked for just now.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from csi_slayer.content.opened import OpenInode, OpenInodes, letting_go
from csi_slayer.vfs.kept import Kept

UNOPENED_KEPT = 128
"""Files read without an open (zero-upcall volumes) that are kept ready."""

IDLE = 5.0
"""Seconds without a read after which such a file is kept ready no longer."""

LOST_IDLE = 600.0
"""The same for one that others took the name from: once evicted it cannot be had again."""

PAUSED = 0.25
"""The same for one that still has its name, if there is too much: a reader that goes on comes
sooner, and would lose what is being fetched for it."""


class Unopened:
    """``room``: bytes of files that are not too much. ``kept``: those that others took the name
    from. ``spawn`` runs a coroutine that its owner ends."""

    def __init__(
        self,
        opened: OpenInodes,
        kept: Kept,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        room: int,
    ) -> None:
        self._opened = opened
        self._kept = kept
        self._spawn = spawn
        self._room = room
        self._read: OrderedDict[int, tuple[OpenInode, float]] = OrderedDict()  # by that time
        self._watching = False

    def __contains__(self, ino: int) -> bool:
        return ino in self._read

    def note(self, record: OpenInode) -> None:
        """It is about to be read."""
        known = self._read.pop(record.ino, None)
        if known is None:
            self._opened.use(record.ino)
        self._read[record.ino] = record, asyncio.get_running_loop().time()
        if known is None:
            self._let_go_of_some()
        if not self._watching:
            self._watching = True
            self._spawn(self._watch())

    def was_read(self, record: OpenInode) -> None:
        """It may be read again at once, however long that took."""
        if record.ino in self._read:
            self._read[record.ino] = record, asyncio.get_running_loop().time()
            self._read.move_to_end(record.ino)

    async def _watch(self) -> None:
        try:
            while self._read:
                await asyncio.sleep(IDLE)
                self._let_go_of_some()
        finally:
            self._watching = False

    def _let_go_of_some(self) -> None:
        going = []
        while len(self._read) > UNOPENED_KEPT:
            going.append(self._read.popitem(last=False)[1][0])
        now = asyncio.get_running_loop().time()
        oldest = next(iter(self._read.values()), None)
        if oldest is not None and now - oldest[1] >= PAUSED:
            going += self._paused(now)
        if going:  # not by whoever reads now, whom a signal may end in the middle
            self._spawn(self._let_go(going))

    def _paused(self, now: float) -> list[OpenInode]:
        """Take out those that were not read for too long."""
        size = sum(record.file.size for record, _ in self._read.values() if record.file is not None)
        going = []
        for ino, (record, last) in list(self._read.items()):  # the longest idle first
            pause = PAUSED if size > self._room else IDLE
            if ino in self._kept:
                pause = LOST_IDLE
            elif record.users > 1:  # it is being read
                pause = math.inf
            if now - last >= pause:
                del self._read[ino]
                size -= 0 if record.file is None else record.file.size
                going.append(record)
        return going

    async def _let_go(self, records: list[OpenInode]) -> None:
        for record in records:
            with letting_go(record.ino):
                await self._opened.let_go(record)
                # Of inodes without a name there may be more than descriptors.
                if record.users == 1 and record.ino in self._kept and record.file is not None:
                    file, record.file = record.file, None
                    await file.close()
