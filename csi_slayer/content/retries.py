"""When keys whose last attempt failed are tried again, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from csi_slayer.errors import PreconditionFailed, SlayerError
from csi_slayer.observability.complaints import Complaints
from csi_slayer.observability.secrets import mask_text

log = structlog.get_logger(__name__)

BACKOFF_FIRST, BACKOFF_MAX = 0.25, 30.0
"""Shortest and longest pause before a failed key is tried again, seconds; a key is never given
up."""

RETRY_MEMORY = 4096
"""Failed keys that are remembered one by one."""


def reason_of(error: Exception) -> str:
    """What is shown of a failed attempt: of an error that nobody thought of its kind as well, and
    no secret that it may have in its text."""
    if isinstance(error, SlayerError):
        return str(error)
    return mask_text(f"{type(error).__name__}: {error}")


class Retries:
    """``others``: when keys may be tried that failed when so many had that none is noted."""

    def __init__(self) -> None:
        self.others = 0.0
        self._noted: dict[str, tuple[float, int]] = {}
        self._lost: set[str] = set()  # those of which somebody else was faster
        self._complaints = Complaints(log)

    def tell(self, key: str, attempts: int, error: Exception) -> None:
        """Log a failed attempt; where an error came from that nobody thought of not each time."""
        log.warning("store not updated yet", key=key, attempts=attempts, error=reason_of(error))
        if not isinstance(error, SlayerError):
            self._complaints.failed(key, "reconcile failed", error, key=key)

    def tell_deletions(self, keys: int, error: Exception) -> None:
        """As :meth:`tell`, of deletions that were asked for together."""
        log.warning("objects not deleted yet", keys=keys, error=reason_of(error))
        if not isinstance(error, SlayerError):
            self._complaints.failed("", "reconcile failed", error)

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
