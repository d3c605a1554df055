"""One listing of a directory, which any number of callers may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Listing:
    """A listing under way; it ends after as many pages as somebody ``wanted``."""

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.pages = 0
        self.wanted = 1
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def progress(self) -> int:
        """A number that grows while the store answers."""
        return self.pages

    def page_done(self) -> None:
        self.pages += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def more(self) -> Coroutine[Any, Any, None]:
        """Wait for the next page from now on, or the end; raises what ended the listing."""
        return self._more(self._changed)

    async def _more(self, event: asyncio.Event) -> None:
        assert self.task is not None
        changed = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({changed, self.task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self.task.done():
            self.task.result()
