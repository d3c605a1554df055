"""The credentials of this moment, renewed off the event loop before they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from csi_slayer.errors import AccessDenied
from csi_slayer.store.s3.aside import aside
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.sign import Signer
from csi_slayer.store.s3.sources import CredentialSource

# Renewal begins this long before the end (seconds), or at three quarters of a shorter life.
RENEW_AHEAD = 600.0
# With less than this left, a request waits for the new ones.
LEAST_LEFT = 30.0
# Several requests that are refused at once cause one renewal.
LEAST_BETWEEN_REFUSALS = 2.0
# A renewal ahead of time that failed is not tried again at once.
LEAST_BETWEEN_FAILURES = 10.0
# For so long a refusal to give credentials is the answer to every request.
REFUSAL_LASTS = 2.0
# What was given just now is used for so long, whatever its end says: it may be our clock that is
# wrong, and the server tells if it is not.
LEAST_USE = 120.0


def _since_boot() -> float:
    """Seconds, those of a suspended machine too; nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SignedBy:
    """A signer and the session token that goes with it."""

    __slots__ = ("signer", "token")

    def __init__(self, keys: AccessKeys, region: str) -> None:
        self.signer = Signer(keys.access_key, keys.secret_key, region)
        self.token = keys.session_token


class Credentials:
    """Hands out signers; one renewal at a time, in a thread.

    ``now`` is the wall clock in seconds since 1970, asked once for each key pair: it may be set
    meanwhile, so ``clock`` measures all that passes.
    """

    def __init__(
        self,
        source: CredentialSource,
        region: str,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = _since_boot,
    ) -> None:
        self._source = source
        self._region = region
        self._now = now
        self._clock = clock
        self._current: SignedBy | None = None
        self._renew_at = 0.0
        self._ends = 0.0
        self._loaded_at = 0.0
        self._renewal: asyncio.Task[None] | None = None
        self._refusal = ""
        self._refused_at = float("-inf")

    @property
    def identity(self) -> str:
        """Stable name of the identity; valid after the first :meth:`current`."""
        return self._source.identity

    @property
    def temporary(self) -> bool:
        """Whether these credentials end: they say so, or are those of a session. Then there may
        be others where they came from."""
        session = self._current is not None and self._current.token is not None
        return session or self._ends != float("inf")

    async def current(self) -> SignedBy:
        """A signer that is valid now. Raises AccessDenied or Transient if there is none."""
        now = self._clock()
        if self._current is not None and now < self._ends - LEAST_LEFT:
            if now >= self._renew_at:
                self._start_renewal()
            return self._current
        if now < self._refused_at + REFUSAL_LASTS:
            raise AccessDenied(self._refusal)
        await asyncio.shield(self._start_renewal())
        assert self._current is not None
        return self._current

    async def refused(self) -> None:
        """The server says that the credentials have ended: get new ones, once for all callers."""
        if self._clock() - self._loaded_at > LEAST_BETWEEN_REFUSALS:
            await asyncio.shield(self._start_renewal())

    async def close(self) -> None:
        """Wait for a renewal that is under way: its thread cannot be interrupted."""
        if self._renewal is not None:
            await asyncio.gather(self._renewal, return_exceptions=True)

    def _start_renewal(self) -> asyncio.Task[None]:
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_task(self._renew())
            self._renewal.add_done_callback(self._renewed)
        return self._renewal

    def _renewed(self, task: asyncio.Task[None]) -> None:
        self._renewal = None
        # The exception is retrieved here for the case that nobody waits, while the old keys last.
        if not task.cancelled() and task.exception() is not None:
            self._renew_at = self._clock() + LEAST_BETWEEN_FAILURES

    async def _renew(self) -> None:
        try:
            keys = await aside(self._source.load)
        except AccessDenied as error:
            self._refusal, self._refused_at = str(error), self._clock()
            raise
        self._loaded_at = self._clock()
        self._current = SignedBy(keys, self._region)
        if keys.expires is None:
            self._renew_at = self._ends = float("inf")
        else:
            left = max(keys.expires - self._now(), LEAST_USE)
            self._ends = self._loaded_at + left
            self._renew_at = self._ends - min(RENEW_AHEAD, left / 4)
