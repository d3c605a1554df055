"""Who copies or deletes content: one process at a time, although nobody coordinates them.

The owner's name is in the record, with a number that grows whenever the owner renews it. Another
process that finds it there watches the record for :data:`LEASE` seconds of its own clock: if it
changed, the owner lives; if not, the process takes it over with If-Match on what it watched. An
owner that could not renew for two thirds of that time stops by itself, before anybody can have
taken over. Without this, a process that was paused could copy over, or delete, what a pod has
written since another one finished the work.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from csi_slayer.errors import PreconditionFailed, SlayerError, StoreError, VolumeBusy
from csi_slayer.volumes import records
from csi_slayer.volumes.home import Found, Home, R
from csi_slayer.volumes.ids import ObjectId

T = TypeVar("T")

LEASE = 15.0
"""Seconds. Renewed at every third of it."""


class Lease(Generic[R]):
    """The right to work on one volume or snapshot. ``seconds``: shorter in tests."""

    def __init__(self, home: Home[R], what: ObjectId, seconds: float = LEASE) -> None:
        self._home = home
        self._what = what
        self._seconds = seconds
        self._owner = secrets.token_hex(8)
        self._lock = asyncio.Lock()
        self._held: Found[R] | None = None
        self._renewed = 0.0
        self._rest = 0.0

    @property
    def record(self) -> R:
        """The record as the owner last wrote it."""
        assert self._held is not None
        return self._held.record

    def marked(self, record: R) -> R:
        """``record`` with this owner in it: who creates a record with it holds the lease."""
        return _changed(record, lease=records.Lease(owner=self._owner))

    def created(self, found: Found[R]) -> None:
        """The record has been created as :meth:`marked` by this process just now."""
        self._hold(found)

    async def take(self, found: Found[R], *, preempt: bool = False, **changes: Any) -> None:
        """Write the record with ``changes`` and this owner. Waits as long as it takes to know that
        an earlier owner is gone. Raises VolumeBusy if he is not, or another was faster.

        ``preempt``: take it from an owner who may be alive, and let :meth:`run` begin only when he
        must have noticed.
        """
        if found.record.lease is not None and preempt:
            self._rest = self._seconds
        elif found.record.lease is not None:
            await self._watch(found)
        record = self.marked(_changed(found.record, **changes))
        started = time.monotonic()
        try:
            self._hold(await self._home.replace(self._what, found, record), started)
        except PreconditionFailed:
            raise self._elsewhere() from None

    async def _watch(self, found: Found[R]) -> None:
        until = time.monotonic() + self._seconds
        pause = self._seconds / 100  # most owners are about to be done
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, pause))
            pause = min(pause * 2, self._seconds / 5)
            if (await self._home.read(self._what)).etag != found.etag:
                raise self._elsewhere()

    def _elsewhere(self) -> VolumeBusy:
        return VolumeBusy(f"{self._what}: another controller is at work on it: ask again later")

    def _hold(self, found: Found[R], since: float | None = None) -> None:
        self._held = found
        self._renewed = time.monotonic() if since is None else since

    def check(self) -> None:
        """Raises VolumeBusy if somebody else may have taken over. Call it before each step."""
        if time.monotonic() - self._renewed > self._seconds * 2 / 3:
            raise VolumeBusy(f"{self._what}: the record could not be renewed in time: ask again")

    async def write(self, **changes: Any) -> R:
        """Change the record and keep the lease. Raises VolumeBusy if it is lost."""
        async with self._lock:
            return await self._write(changes)

    async def finish(self, **changes: Any) -> R:
        """Change the record and give the lease up."""
        async with self._lock:
            return await self._write({"lease": None, **changes})

    async def _write(self, changes: dict[str, Any]) -> R:
        """Call it under the lock."""
        self.check()
        assert self._held is not None
        old = self._held.record.lease
        beat = 0 if old is None else old.beat + 1
        changes.setdefault("lease", records.Lease(owner=self._owner, beat=beat))
        record = _changed(self._held.record, **changes)
        started = time.monotonic()
        try:
            found = await self._home.replace(self._what, self._held, record)
        except PreconditionFailed:
            self._renewed = float("-inf")
            raise self._elsewhere() from None
        self._hold(found, started)
        return found.record

    async def remove(self) -> None:
        """Remove the record, and the lease with it."""
        async with self._lock:
            self.check()
            await self._home.remove(self._what)
            self._held = None

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work`` while renewing the lease; it is cancelled if the lease is lost.

        However it ends, the lease is given up, so that nobody has to wait for it.
        """

        async def begin() -> T:
            await asyncio.sleep(self._rest)
            return await work()

        working = asyncio.get_running_loop().create_task(begin())
        renewing = asyncio.get_running_loop().create_task(self._renew())
        try:
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                renewing.result()  # raises why
            return await working
        finally:
            for task in (working, renewing):
                task.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            await self._give_up()

    @property
    def _given_up(self) -> bool:
        return self._held is None or self._held.record.lease is None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            async with self._lock:
                if self._given_up:
                    continue  # the work is about to end
                try:
                    await self._write({})
                except StoreError:
                    self.check()  # an outage shorter than the lease is no reason to stop

    async def _give_up(self) -> None:
        if self._given_up:
            return
        try:
            await self.finish()
        except SlayerError:
            return  # the next owner waits until it has run out


def _changed(record: R, **changes: Any) -> R:
    return record.model_copy(update=changes)
