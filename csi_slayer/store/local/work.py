"""The threads of a local store: every operation runs in one, is reported and can be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from csi_slayer.errors import (
    AccessDenied,
    InvalidRange,
    KeyObstructed,
    ObjectNotFound,
    PreconditionFailed,
    StoreError,
    StoreUnavailable,
    StoreUnsupported,
)
from csi_slayer.store.local.oserrors import translated
from csi_slayer.store.observe import GIVEN_UP, OUR_OWN, RequestObserver
from csi_slayer.store.stop import StopFlag, Stopped
from csi_slayer.store.threads import Crews, run_in_thread

T = TypeVar("T")

# Observers think in HTTP.
_STATUS: Mapping[type[Exception], int] = {
    ObjectNotFound: 404,
    AccessDenied: 403,
    PreconditionFailed: 412,
    InvalidRange: 416,
    KeyObstructed: 409,
    StoreUnsupported: 501,
}


class WorkThreads:
    """Runs blocking work; what exceeds the threads waits its turn."""

    def __init__(self, threads: int, observer: RequestObserver) -> None:
        self._crews = Crews(threads, "local-store")
        self._observer = observer
        self._active: set[StopFlag] = set()
        self._closed = False
        self._done = 0

    @property
    def progress(self) -> int:
        """Grows while work is done, and from piece to piece of it."""
        return self._done + sum(stop.checks for stop in self._active)

    async def run(
        self,
        op: str,
        key: str,
        work: Callable[[StopFlag], T],
        sent: int = 0,
        *,
        from_file: bool = False,
    ) -> T:
        """The result of ``work``; ``op`` and ``key`` begin the messages of its errors.
        ``from_file``: it reads what it stores from the caller's file.

        Raises StoreErrors only, OSErrors among them translated.
        """
        what = f"{op} {key!r}"

        def translate() -> T:
            with translated(what):
                return work(stop)

        crew = self._crews.of(sends=from_file)
        async with crew.turns:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            stop = StopFlag()
            self._active.add(stop)
            started = time.monotonic()
            status: int | None = None
            received = 0
            try:
                result = await run_in_thread(crew.executor, translate, stop.set)
                status = 200
                received = _body_length(result)
                return result
            except OUR_OWN:
                status = GIVEN_UP
                raise
            except Stopped:
                raise StoreUnavailable(f"{what}: the store is closed") from None
            except StoreError as error:
                status = _STATUS.get(type(error))
                if status in (None, 403):
                    self._observer.on_failure(str(error))
                raise
            finally:
                self._active.discard(stop)
                self._done += stop.checks + 1
                self._observer.on_request(op, status, time.monotonic() - started, sent, received)

    async def close(self) -> bool:
        """Stop work under way and wait for its end; False if it was closed before."""
        if self._closed:
            return False
        self._closed = True
        for stop in self._active:
            stop.set()
        await self._crews.end()
        return True


def _body_length(result: object) -> int:
    if isinstance(result, tuple) and isinstance(result[-1], bytes):
        return len(result[-1])
    return 0
