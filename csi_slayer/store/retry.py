"""The one retry policy: which failures may pass, and how long they are waited for.

An attempt says that its failure may pass by raising :class:`Transient`; whatever else it raises is
final. Attempts are spaced by exponential backoff with full jitter: many clients that failed
together do not come back together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from csi_slayer.errors import StoreError, StoreUnavailable

T = TypeVar("T")

# A server may ask for a pause; not for an arbitrarily long one.
LONGEST_RETRY_AFTER = 20.0
# A server that answers with something else than was asked for may be a gateway in trouble: asked
# again, but not until the deadline.
MOST_WRONG_ANSWERS = 4


class Transient(Exception):
    """An attempt failed in a way that may pass. Never leaves the store package.

    ``immediate``: the first repetition need not wait (a kept-alive connection had gone stale), nor
    that after the first failure of a ``kind``.
    ``progress``: the attempt got further than the one before, so the count starts anew.
    ``retry_after``: seconds the server asked for. ``limit``: give up when so many attempts have
    failed in a way that has a limit, those of each ``kind`` counted by themselves; what an outage
    before them took does not count. ``outcome``: what is raised when retries are used up.
    """

    def __init__(
        self,
        message: str,
        *,
        immediate: bool = False,
        progress: bool = False,
        retry_after: float | None = None,
        limit: int | None = None,
        kind: str = "",
        outcome: type[StoreError] = StoreUnavailable,
    ) -> None:
        super().__init__(message)
        self.immediate = immediate
        self.progress = progress
        self.retry_after = retry_after
        self.limit = limit
        self.kind = kind
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long; times in seconds, clock and sleep replaceable for tests.

    No attempt begins later than ``deadline`` after the first one began (or after the last one
    that made progress); what an attempt itself may take is the business of its own timeouts.
    """

    deadline: float = 60.0
    attempts: int = 100
    base: float = 0.05
    cap: float = 5.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    retried: Callable[[], None] | None = None
    """Told of each attempt after the first."""

    async def run(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        """Call ``attempt`` until it succeeds or fails for good; ``what`` begins the message.

        Raises what the attempt raises, and the ``outcome`` of the last Transient when the
        deadline or the number of attempts is reached.
        """
        started = self.clock()
        failures, limited = 0, Counter[str]()
        while True:
            try:
                return await attempt()
            except Transient as failure:
                if failure.progress:
                    started, failures, limited = self.clock(), 0, Counter()
                failures += 1
                limited[failure.kind] += failure.limit is not None
                first = failures == 1 or (failure.kind != "" and limited[failure.kind] == 1)
                pause = self._pause(failures, failure, first)
                elapsed = self.clock() - started
                spent = failure.limit is not None and limited[failure.kind] >= failure.limit
                if spent or failures >= self.attempts or elapsed + pause >= self.deadline:
                    tries = "1 attempt" if failures == 1 else f"{failures} attempts"
                    raise failure.outcome(
                        f"{what}: {failure} (gave up after {tries} in {elapsed:.1f} s)"
                    ) from failure
            if self.retried is not None:
                self.retried()
            await self.sleep(pause)

    def _pause(self, failures: int, failure: Transient, first: bool) -> float:
        if failure.immediate and first:
            return 0.0
        ceiling = min(self.cap, self.base * 2.0 ** min(failures, 30))
        pause = self.jitter() * ceiling
        if failure.retry_after is not None:
            pause = max(pause, min(failure.retry_after, LONGEST_RETRY_AFTER))
        return pause
