"""Files that are opened after they lost the name by which they were found.

Between the kernel's look-up and its open another program may remove or replace the file. The
kernel then looks the name up and tries once more. Where names are replaced all the time that comes
too late as well, and the program would be told ESTALE, which no local file system does. In such a
directory what loses its name can be opened for a moment, or until the kernel forgets it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from csi_slayer.catalog import Inode
from csi_slayer.content.opened import OpenInode, OpenInodes, letting_go

WATCHED = 10.0
"""Seconds for which that is so in a directory after an open that came too late."""

DIRECTORIES = 64
"""The latest such directories are remembered."""

MOMENT = 1.0
"""Seconds for which such a file can be opened at most."""


class Late:
    """``spawn`` runs a coroutine that its owner ends; ``note_removed`` has an inode's attributes
    remembered."""

    def __init__(
        self,
        opened: OpenInodes,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        find: Callable[[int], Awaitable[Inode | None]],
        note_removed: Callable[[Inode], None],
    ) -> None:
        self._opened = opened
        self._spawn = spawn
        self._find = find
        self._note_removed = note_removed
        self._until: OrderedDict[int, float] = OrderedDict()
        self._kept: dict[int, tuple[OpenInode, asyncio.TimerHandle]] = {}

    def note(self, parent: int) -> None:
        """An open of something that was in the directory came too late."""
        self._until[parent] = asyncio.get_running_loop().time() + WATCHED
        self._until.move_to_end(parent)
        if len(self._until) > DIRECTORIES:
            self._until.popitem(last=False)

    def expected(self, parent: int) -> bool:
        """Whether there are such opens in the directory."""
        until = self._until.get(parent)
        return until is not None and asyncio.get_running_loop().time() < until

    def keep(self, ino: int) -> None:
        """It has no name any more, and stays in the table."""
        timer = asyncio.get_running_loop().call_later(MOMENT, self._over, ino)
        self._kept[ino] = self._opened.use(ino), timer

    async def leaving(self, record: OpenInode) -> None:
        """One user less: if it is the last of what has no name any more, the kernel may still ask
        for its attributes."""
        if record.unlinked and record.users == 1:
            inode = await self._find(record.ino)
            if inode is not None:
                self._note_removed(inode)

    def _over(self, ino: int) -> None:
        """The moment is over."""
        if ino in self._kept:
            self._spawn(self._let_go(ino, known=True))

    def forgotten(self, ino: int) -> None:
        """The kernel has nothing of it any more."""
        if ino in self._kept:
            self._spawn(self._let_go(ino))

    async def let_go(self) -> None:
        """The kernel has nothing any more."""
        for ino in list(self._kept):
            await self._let_go(ino)

    async def _let_go(self, ino: int, *, known: bool = False) -> None:
        """``known``: the kernel has not forgotten it."""
        kept = self._kept.pop(ino, None)
        if kept is None:
            return
        record, timer = kept
        timer.cancel()
        with letting_go(ino):
            if known:
                await self.leaving(record)
            await self._opened.let_go(record)
