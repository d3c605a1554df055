"""When keys whose last attempt failed are tried again, and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import structlog

from csi_slayer.catalog import Pending
from csi_slayer.errors import PreconditionFailed, SlayerError, StoreUnavailable
from csi_slayer.observability.complaints import Complaints
from csi_slayer.observability.secrets import mask_text

log = structlog.get_logger(__name__)

BACKOFF_FIRST, BACKOFF_MAX = 0.25, 30.0
"""Shortest and longest pause before a failed key is tried again, seconds; a key is never given
up."""

RETRY_MEMORY = 4096
"""Failed keys that are remembered one by one."""


class NotDeleted(StoreUnavailable):
    """Of each of these keys the store has said why, which is noted with it."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        super().__init__(f"{len(reasons)} objects not deleted yet")


def reason_of(error: Exception) -> str:
    """What is shown of a failed attempt: of an error that nobody thought of its kind as well, and
    no secret that it may have in its text."""
    if isinstance(error, SlayerError):
        return str(error)
    return mask_text(f"{type(error).__name__}: {error}")


def is_told(attempts: int) -> bool:
    """Whether the last of so many failures of a key is logged: of a key that goes on failing the
    first, second, fourth, eighth and so on. Thousands may fail for days, each twice a minute, and
    the log is on the cache's disk."""
    return attempts & (attempts - 1) == 0


class Retries:
    """``others``: when keys may be tried that failed when so many had that none is noted."""

    def __init__(self) -> None:
        self.others = 0.0
        self._noted: dict[str, tuple[float, int]] = {}
        self._lost: set[str] = set()  # those of which somebody else was faster
        self._complaints = Complaints(log, time.monotonic)

    def _is_news(self, error: Exception) -> bool:
        """Whether no error of this kind was logged lately, of whatever key: a store that was away
        and is back may refuse keys that had failed a thousand times."""
        return self._complaints.is_news(("kind", type(error).__qualname__))

    def tell(self, key: str, attempts: int, error: Exception) -> None:
        """Log a failed attempt, the ``attempts``-th of the key, if :func:`is_told` or it is news;
        and where an error came from that nobody thought of, not each time either."""
        if self._is_news(error) or is_told(attempts):
            log.warning("store not updated yet", key=key, attempts=attempts, error=reason_of(error))
        if not isinstance(error, SlayerError):
            self._complaints.failed(key, "reconcile failed", error, key=key)

    def tell_deletions(self, rows: Sequence[Pending], error: Exception) -> None:
        """As :meth:`tell`, of deletions that were asked for together, as they were noted before."""
        reasons = error.reasons if isinstance(error, NotDeleted) else None
        failed = [row for row in rows if reasons is None or row.key in reasons]
        told = [row.key for row in failed if is_told(row.attempts + 1)]
        if self._is_news(error) and not told:
            told = [row.key for row in failed[:1]]
        if reasons is not None:
            for key in told:
                log.warning("object not deleted yet", key=key, error=reasons[key])
        elif told:
            log.warning("objects not deleted yet", keys=len(rows), error=reason_of(error))
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
        """These failed together; ``pause`` doubles with each failure of a key."""
        now, most = time.monotonic(), max(pause, BACKOFF_MAX)
        for key in keys:
            if key in self._noted or len(self._noted) < RETRY_MEMORY:
                failures = self._noted.get(key, (0.0, 0))[1]
                longer = min(most, pause * 2 ** min(failures, 10))
                self._noted[key] = (now + longer, failures + 1)
            else:
                self.others = max(self.others, now + most)
