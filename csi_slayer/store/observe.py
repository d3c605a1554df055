"""Where a store reports its requests, so that metrics need not be known here."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from csi_slayer.errors import CacheError, SourceUnreadable

GIVEN_UP: Final = 499
"""In place of the HTTP status: whoever asked was cancelled before the answer was there (a read
ahead that nobody wants any more), or the local file to receive or to send into failed (a cache
without room), which says nothing about the store. Servers' logs call it so."""

OUR_OWN: Final = (asyncio.CancelledError, CacheError, SourceUnreadable)
"""What a request that is :data:`GIVEN_UP` raises."""


class RequestObserver(Protocol):
    """Told of every attempt of every request, also of those that fail.

    ``op`` is the S3 operation (``GetObject``, ``UploadPart``...), ``status`` the HTTP status or
    GIVEN_UP, or None if no answer came, ``seconds`` from the first byte sent to the last one
    received, ``sent`` and ``received`` body bytes. Called on the event loop; must not block or
    raise.
    """

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None: ...

    def on_retry(self) -> None:
        """A request is about to be sent again."""

    def on_failure(self, reason: str) -> None:
        """An attempt found the store away or unwilling (no credentials, no permission, no
        bucket); an object that is absent or another version is no failure."""


class NoObserver:
    """For stores that nobody watches."""

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None:
        """Forget it."""

    def on_retry(self) -> None:
        """Forget it."""

    def on_failure(self, reason: str) -> None:
        """Forget it."""
