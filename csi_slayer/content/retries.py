"""When keys whose last attempt failed are tried again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from csi_slayer.errors import PreconditionFailed

BACKOFF_FIRST, BACKOFF_MAX = 0.25, 30.0
"""Shortest and longest pause before a failed key is tried again, seconds; a key is never given
up."""

RETRY_MEMORY = 4096


class Retries:
    """``others``: when keys may be tried that failed when so many had that none is noted."""

    def __init__(self) -> None:
        self.others = 0.0
        self._noted: dict[str, tuple[float, int]] = {}
        self._lost: set[str] = set()  # those of which somebody else was faster

    def __len__(self) -> int:
        """Failures that are noted."""
        return len(self._noted)

    def __contains__(self, key: str) -> bool:
        """Whether its failure is noted."""
        return key in self._noted

    def not_before(self, key: str, others: float) -> float:
        """On the monotonic clock; ``others`` for a key of which nothing is noted."""
        return self._noted[key][0] if key in self._noted else others

    def clear(self) -> None:
        """All keys may be tried now."""
        self._noted.clear()
        self._lost.clear()
        self.others = 0.0

    def forget(self, key: str) -> None:
        self._noted.pop(key, None)
        self._lost.discard(key)

    def closed(self, key: str) -> None:
        """Nobody has the key's file open any more. A race that was lost is decided with that,
        however often it was lost before."""
        if key in self._lost:
            self.forget(key)

    def failed(self, key: str, error: BaseException, *, closed: bool) -> None:
        """``closed``: nobody has had the file open since the attempt began."""
        _at, failures = self._noted.get(key, (0.0, 0))
        self.forget(key)
        if len(self._noted) >= RETRY_MEMORY:
            self.others = time.monotonic() + BACKOFF_MAX
            return
        pause = min(BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(failures, 10))
        if isinstance(error, PreconditionFailed):
            self._lost.add(key)
            if closed or not failures:
                pause = 0.0  # the last close was, or is about to come
        self._noted[key] = (time.monotonic() + pause, failures + 1)

    def put_off(self, keys: Iterable[str], pause: float) -> None:
        """These failed together."""
        at = time.monotonic() + pause
        for key in keys:
            if key in self._noted or len(self._noted) < RETRY_MEMORY:
                self._noted[key] = (at, self._noted.get(key, (0.0, 0))[1] + 1)
            else:
                self.others = max(self.others, at)
