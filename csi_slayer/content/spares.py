"""Empty staged files that are made ahead while many are wanted and the disk is slow at it.

To make a file takes mostly some microseconds, but can take many times longer than all the rest of
a create (ext4 without a journal looks for a free inode among those that were just deleted), and
the event loop would wait for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from csi_slayer.cache import Stage, Staging
from csi_slayer.content.staged import os_errors
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import CacheError

SPARES = 64
"""Files made ahead, at most."""

CROWD = 0.05
"""Seconds between two new files from which on more are expected."""

SLOW = 100e-6
"""Seconds to make a file from which on it is worth a thread."""

IDLE = 1.0
"""Seconds without a new file after which those that were made ahead are removed."""


class Spares:
    """Of one volume; ``spawn`` runs a coroutine that its owner ends.

    What a killed worker leaves are staged files that no inode has, which the next one removes.
    """

    def __init__(
        self, staging: Staging, spawn: Callable[[Coroutine[Any, Any, None]], None]
    ) -> None:
        self._staging = staging
        self._spawn = spawn
        self._ready: deque[Stage] = deque()
        self._low = asyncio.Event()
        self._last = 0.0
        self._taken = 0
        self._keeping = False

    def take(self) -> Stage:
        """A new staged file. Raises CacheError, CacheFull."""
        self._taken += 1
        if self._keeping and len(self._ready) <= SPARES // 2:
            self._low.set()
        if not self._ready:
            return self._make()
        stage = self._ready.popleft()
        with os_errors():
            os.utime(stage.fd)
        return stage

    def _make(self) -> Stage:
        begun = time.perf_counter()
        stage = self._staging.create()
        made = time.perf_counter()
        if begun - self._last < CROWD and made - begun > SLOW and not self._keeping:
            self._keeping = True
            self._spawn(self._keep())
        self._last = made
        return stage

    async def _keep(self) -> None:
        filling: asyncio.Future[bool] | None = None
        worth = True
        try:
            while worth:
                taken = self._taken
                self._low.clear()
                filling = asyncio.ensure_future(asyncio.to_thread(self._fill))
                worth = await asyncio.shield(filling)
                try:
                    async with asyncio.timeout(IDLE):
                        await self._low.wait()
                except TimeoutError:
                    if self._taken == taken:
                        return
        finally:
            self._keeping = False
            if filling is not None and not filling.done():
                await asyncio.wait({filling})
            left = list(self._ready)
            self._ready.clear()
            if left:
                await to_its_end(lambda _unwanted: self._remove(left))

    def _remove(self, stages: list[Stage]) -> None:
        for stage in stages:
            os.close(stage.fd)
            with suppress(CacheError):  # no inode has it: the next worker removes it
                self._staging.remove(stage.id)

    def _fill(self) -> bool:
        """False if it was not worth it, or cannot be done."""
        begun, wanted = time.perf_counter(), SPARES - len(self._ready)
        try:
            for _ in range(wanted):
                self._ready.append(self._staging.create())
        except CacheError:
            return False  # told to whoever wants a file
        return time.perf_counter() - begun > wanted * SLOW / 2
