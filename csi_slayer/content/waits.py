"""Which keys' attempts wait for which other keys, so that none waits for itself."""

from __future__ import annotations

import asyncio
from typing import NamedTuple


class _Wait(NamedTuple):
    target: str
    freed: asyncio.Future[None]


class Waits:
    """At most one wait of each key."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    def would_cycle(self, key: str, target: str) -> bool:
        """Whether ``target`` waits for ``key`` already, directly or by way of others."""
        seen = target
        while seen != key and seen in self._waits:
            seen = self._waits[seen].target
        return seen == key

    async def wait(self, key: str, target: str, task: asyncio.Task[None]) -> None:
        """Until ``task``, an attempt for ``target``, is done or ``key`` is freed. Raises what the
        task raised."""
        waits = self._waits[key] = _Wait(target, asyncio.get_running_loop().create_future())
        try:
            await asyncio.wait({task, waits.freed}, return_when=asyncio.FIRST_COMPLETED)
            if not waits.freed.done():
                task.result()
        finally:
            self.forget(key)

    def free(self, key: str) -> None:
        """What the key waits for has come about in another way."""
        waits = self._waits.pop(key, None)
        if waits is not None:
            waits.freed.set_result(None)

    def forget(self, key: str) -> None:
        """The key's attempt has ended."""
        self._waits.pop(key, None)
