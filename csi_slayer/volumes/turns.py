"""How many copies and deletions run at a time: a bound for each S3 service, and one for all.

A job of a service that does not answer lasts until it is given up. So deletions do not wait for
copies, nor either of them for those at another service; and the driver's own service, where most
volumes are, does not count among the others, of which an id or a secret may name any number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

AT_SERVICE = 8
"""Jobs of one kind at one service at a time; the others wait their turn."""

ELSEWHERE = 64
"""Jobs of one kind at all services but the driver's own."""

OWN = ""
"""The driver's own service."""


class Work(StrEnum):
    COPY = "copy"
    DELETION = "deletion"


@dataclass
class _Service:
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_SERVICE))
    users: int = 0


class Turns:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._services: dict[tuple[Work, str], _Service] = {}
        self._elsewhere = {work: asyncio.Semaphore(ELSEWHERE) for work in Work}

    @asynccontextmanager
    async def turn(self, work: Work, service: str) -> AsyncIterator[None]:
        """One turn; waits for it as long as it takes."""
        key = (work, service)
        found = self._services.setdefault(key, _Service())
        found.users += 1
        try:
            async with found.turns:
                if service == OWN:
                    yield
                else:
                    async with self._elsewhere[work]:
                        yield
        finally:
            found.users -= 1
            if not found.users:
                del self._services[key]
