"""What is to be done after an inode's last close, when nobody comes again to do it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from csi_slayer.content.opened import OpenInodes
from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

LEFT = 65536
"""Inodes that are tried again; those beyond wait for the next start."""

PAUSE = 5.0
"""Seconds between two tries."""

FAILURES = 16
"""Failures after which the others are left to the next try: it will be the same with them."""


class Again:
    """``step(ino)`` fails on a full disk: it is tried until it does not. ``event`` is logged then;
    ``spawn`` runs a coroutine that its owner ends."""

    def __init__(
        self,
        step: Callable[[int], Awaitable[None]],
        event: str,
        opened: OpenInodes,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._step = step
        self._event = event
        self._opened = opened
        self._spawn = spawn
        self._left: dict[int, None] = {}
        self._trying = False

    async def do(self, ino: int) -> None:
        """Take the step for an inode that nobody has open, now or as soon as that can be done."""
        try:
            await self._step(ino)
        except SlayerError as error:
            if len(self._left) < LEFT:
                self._left[ino] = None
            if not self._trying:
                self._trying = True
                log.warning(self._event, ino=ino, error=str(error))
                self._spawn(self._try_again())

    async def _try_again(self) -> None:
        try:
            while self._left:
                await asyncio.sleep(PAUSE)
                await self._try_all()
        finally:
            self._trying = False

    async def _try_all(self) -> None:
        failures = 0
        for ino in list(self._left):
            if ino in self._opened:
                continue
            try:
                await self._step(ino)
                del self._left[ino]
            except SlayerError:
                self._left[ino] = self._left.pop(ino)  # at the end of the queue
                failures += 1
                if failures == FAILURES:
                    return
            await asyncio.sleep(0)
