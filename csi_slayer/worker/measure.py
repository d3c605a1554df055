"""What a volume with a quota holds: the sum of all sizes, as far as the table knows them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from csi_slayer.content.options import Live
from csi_slayer.observability import get_logger
from csi_slayer.observability.complaints import Complaints

log = get_logger(__name__)

PAUSE_FIRST, PAUSE_MAX = 2.0, 300.0
"""Shortest and longest pause before a tree that could not be read to its end is read again: it
doubles."""


class Measuring:
    """``read``: reads the whole tree, as far as it is not fresh."""

    def __init__(self, live: Live, read: Callable[[], Awaitable[None]]) -> None:
        self._live = live
        self._read = read
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Read the tree in the background until it was whole or there is no quota any more: what
        is not known yet is not counted."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause, complaints = PAUSE_FIRST, Complaints(log)
        while self._live.quota is not None:
            try:
                await self._read()
            except Exception as error:
                complaints.failed("tree", "what the volume holds is not all counted yet", error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX)
