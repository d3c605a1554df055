"""Inodes that others took the name from, kept for who may be using them.

The kernel does not tell who works in a directory, nor, on volumes without upcalls, who has a file
open: such inodes stay until the kernel forgets them. When others remove a tree, there are many at
once; most of them the kernel forgets as soon as it is told, for nobody uses them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from typing import Any

from csi_slayer.content.opened import OpenInode, OpenInodes, letting_go

NAMELESS_KEPT = 16384
"""Such inodes, at most, but for a moment: files of volumes without upcalls, and directories."""

AT_ONCE = 20
"""Inodes that are let go in one turn of the loop."""

GRACE, EXCESS = 0.5, 4096
"""Seconds for which more are kept, so that the kernel has time to forget those that nobody uses,
and how many of the rest are let go then before it gets as much time again."""


class Kept:
    """A file stays to be had as long as the cache has it. ``spawn`` runs a coroutine that its owner
    ends: there is one at a time."""

    def __init__(
        self, opened: OpenInodes, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._opened = opened
        self._spawn = spawn
        self._inodes: OrderedDict[int, OpenInode] = OrderedDict()
        self._going: deque[OpenInode] = deque()
        self._working = False

    def add(self, ino: int) -> None:
        """It has no name any more."""
        record = self._inodes[ino] = self._opened.use(ino)
        record.unlinked = True
        if len(self._inodes) > NAMELESS_KEPT:
            self._work_soon()

    def used(self, ino: int) -> None:
        """Somebody asks for it: others go first."""
        if ino in self._inodes:
            self._inodes.move_to_end(ino)

    def forgotten(self, ino: int) -> None:
        """The kernel has nothing of it any more."""
        if (record := self._inodes.pop(ino, None)) is not None:
            self._going.append(record)
            self._work_soon()

    def __contains__(self, ino: int) -> bool:
        return ino in self._inodes

    def __len__(self) -> int:
        return len(self._inodes)

    def _work_soon(self) -> None:
        if not self._working:
            self._working = True
            self._spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._going or len(self._inodes) > NAMELESS_KEPT:
                if not self._going:
                    await asyncio.sleep(GRACE)
                    for _ in range(min(EXCESS, len(self._inodes) - NAMELESS_KEPT)):
                        self._going.append(self._inodes.popitem(last=False)[1])
                for _ in range(min(AT_ONCE, len(self._going))):
                    await self._let_go(self._going.popleft())
                await asyncio.sleep(0)
        finally:
            self._working = False

    async def _let_go(self, record: OpenInode) -> None:
        with letting_go(record.ino):
            await self._opened.let_go(record)
