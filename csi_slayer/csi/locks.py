"""One call at a time per volume (CSI spec v1.12, "Operation pending for volume")."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from csi_slayer.errors import VolumeBusy

LONGEST_WAIT = 10.0
"""Seconds that a call waits for its turn before it is told to come again: long enough for pods that
start together, well below the callers' own deadlines."""

MOST_WAITING = 32
"""Calls that wait for one volume; the next are told to come again at once."""


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class KeyedLocks:
    """Locks by key; one that nobody holds or waits for takes no memory."""

    def __init__(self, longest_wait: float = LONGEST_WAIT) -> None:
        self._longest_wait = longest_wait
        self._turns: dict[Hashable, _Turn] = {}

    def __len__(self) -> int:
        """Keys that are held."""
        return len(self._turns)

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for the key and keep it. Raises VolumeBusy where that takes too long."""
        turn = self._turns.setdefault(key, _Turn())
        if turn.users > MOST_WAITING:
            raise VolumeBusy("too many calls wait for this volume: try again later")
        turn.users += 1
        try:
            await self._acquire(turn.lock)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    async def _acquire(self, lock: asyncio.Lock) -> None:
        try:
            async with asyncio.timeout(self._longest_wait):
                await lock.acquire()
        except TimeoutError:
            raise VolumeBusy(
                "another call for the same volume is under way: try again when it has ended"
            ) from None
