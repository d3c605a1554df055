"""What the table knows while the store is away.

Names and attributes past their TTL are asked for again. If the store cannot be reached (not: if it
refuses), whoever has an older answer gets that, with a line in the log; only what was never known
is an error. The first to ask waits a while for the store, the others not at all until it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from csi_slayer.errors import StoreUnavailable

log = structlog.get_logger(__name__)

PATIENCE = 5.0
"""Seconds that somebody with an older answer waits for a newer one."""


class Patience:
    """``limit``: seconds after which a request of the volume fails anyway."""

    def __init__(self, limit: float) -> None:
        self._seconds = min(PATIENCE, limit)
        self._steps = 0
        self.away = False

    async def wait(
        self, task: asyncio.Task[None], progress: Callable[[], int], *, known: bool
    ) -> None:
        """Wait for a refresh; with ``known`` no longer than it makes ``progress`` (a number that
        grows) or somebody has :meth:`worked`, and it may fail for want of a store."""
        if not known:
            await asyncio.shield(task)
            return
        while True:
            before = (progress(), self._steps)
            try:
                async with asyncio.timeout(0.0 if self.away else self._seconds):
                    await asyncio.shield(task)
                return
            except TimeoutError:
                if self.away or (progress(), self._steps) == before:
                    self._is_away(f"no answer within {self._seconds:g} s")
                    return
            except StoreUnavailable as error:
                self._is_away(str(error))
                return

    def worked(self) -> None:
        """A step is done of taking in what the store has said, which may be very much. Whoever
        waits meanwhile, for that or for its turn, does not wait for the store."""
        self._steps += 1

    def _is_away(self, reason: str) -> None:
        if not self.away:
            self.away = True
            log.warning("store is away, serving what is known", reason=reason)

    def ended(self, task: asyncio.Task[None]) -> None:
        """A refresh has ended: whether the store answers shows by it."""
        if task.cancelled():
            return
        error = task.exception()
        if self.away and not isinstance(error, StoreUnavailable):
            self.away = False
            log.info("store is back")
