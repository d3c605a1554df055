"""Making the store's objects what the inode table says they should be.

Every key in the catalog's ``pending`` table is looked at: what the table has at that path decides
whether to upload, copy, mark, delete or do nothing. The step is derived, not recorded, so it can
be repeated after a crash, and changes that cancel each other cost nothing. A key whose object
still is the content of another inode (a rename not yet carried out) is vacated first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from csi_slayer.catalog import Catalog, Inode, Pending
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.options import ContentOptions
from csi_slayer.content.rest import Rest
from csi_slayer.content.retries import RETRY_MEMORY, NotDeleted, Retries, reason_of
from csi_slayer.content.tasks import Progress
from csi_slayer.content.waits import Waits
from csi_slayer.errors import KeyObstructed, SlayerError, StoreError, StoreUnavailable

log = structlog.get_logger(__name__)

PAGE, TURN = 256, 32
"""Pending keys read from the table at once, and looked at in one turn of the event loop."""

AT_ONCE = 16
"""Keys that are stored or copied at the same time."""

PASS_PAUSE, LOOK_PAUSE, PASS_PAUSE_MAX = 0.01, 0.00002, 1.0
"""Seconds between two passes over the pending keys: so many, more for each key that was looked at
and left alone (several times what a look costs), and most."""

DELETE_PAUSE = 2.0
"""Seconds before deletions that failed are tried again; twice as many after each further time."""

NEVER = float("inf")

LOOKS = 32
"""Times that a key whose names keep moving is looked at in one attempt."""


class Reconciler:
    """Owns the background task and every attempt; ``close`` ends them all."""

    def __init__(
        self,
        catalog: Catalog,
        objects: Objects,
        opened: OpenInodes,
        options: ContentOptions,
        progress: Callable[[], int],
    ) -> None:
        self._catalog = catalog
        self._objects = objects
        self._opened = opened
        self._options = options
        self._progress = progress
        self._active: dict[str, asyncio.Task[None]] = {}
        self._noted: dict[str, int] = {}  # when what an attempt works on was noted
        self._again: set[str] = set()  # noted again while an attempt was under way
        self._waits = Waits()
        self._resting: dict[str, int] = {}  # when keys that are left alone were noted first
        self._closed: set[str] = set()  # whose file was closed while an attempt was under way
        self._retries = Retries()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._wake = asyncio.Event()
        self._rest = Rest(catalog, options)
        self._loop_task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop_task = asyncio.get_running_loop().create_task(self._run())
        self._wake.set()

    def kick(self) -> None:
        """There are new pending keys."""
        if not self._rest.is_kept:
            self._wake.set()
        elif self._timer is None:
            self._wake_in(self._rest.first())

    def closed(self, key: str | None) -> None:
        """As :meth:`kick`: somebody was the last to close the file of this one."""
        if key is not None:
            self._retries.closed(key)
            if key in self._active:
                self._closed.add(key)
        self.kick()

    def _wake_in(self, seconds: float) -> None:
        """Look at the pending keys then, or sooner if that is planned already."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + seconds:
                return
            self._timer.cancel()
        self._timer = loop.call_later(seconds, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wake.set()

    def retry(self) -> None:
        """Try all pending keys now, also those that wait after a failure."""
        self._retries.clear()
        self._wake.set()

    def is_active(self, key: str) -> bool:
        """Whether an attempt for the key is under way."""
        return key in self._active

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._loop_task is not None:
            self._loop_task.cancel()
        tasks = [*self._active.values(), *([self._loop_task] if self._loop_task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self, key: str) -> None:
        """Return when the store has what the table had for ``key`` at the time of the call.

        Raises the error of the attempt; a store that is away, with which nothing gets on, is
        waited for as long as ``write_timeout`` says. The work stays queued whatever happens.
        """
        deadline = time.monotonic() + self._options.write_timeout
        progress = Progress(self._progress, self._options.write_timeout)
        own = 0
        while own < 8 and await self._catalog.pending(key) is not None:
            task = self._running(key)
            if task is None:
                task = self._begin(key, forced=True)
                own += 1
            try:
                await progress.outlast(task)
            except TimeoutError as error:
                raise StoreUnavailable(
                    f"nothing of {key!r} got on for {self._options.write_timeout:.0f} s; "
                    "it stays queued and will be sent when the store is back"
                ) from error
            except StoreUnavailable:
                if time.monotonic() + 1.0 > deadline:
                    raise
                await asyncio.sleep(1.0)
                own = 0
                continue
            if own:
                return

    async def drain(self, seconds: float) -> int:
        """Wait until nothing is pending or the time is over; returns how many keys are left."""
        deadline = time.monotonic() + seconds
        self.retry()
        self._rest.over = True
        try:
            while await self._catalog.any_pending() and time.monotonic() < deadline:
                self._wake.set()
                await asyncio.sleep(0.05)
        finally:
            self._rest.over = False
        return await self._catalog.pending_count()

    def _begin(self, key: str, *, forced: bool) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._attempt(key, forced))
        self._active[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _running(self, key: str) -> asyncio.Task[None] | None:
        """The attempt under way for a key. One that is done but whose end was not yet noted does
        not count: waiting for it would not suspend, and a loop around it never end."""
        task = self._active.get(key)
        return task if task is not None and not task.done() else None

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._active.get(key) is task:
            self._finished(key)
        self._waits.forget(key)
        closed = key in self._closed
        self._closed.discard(key)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._retries.forget(key)
            return
        self._wake.set()
        self._retries.failed(key, error, closed=closed)

    def _finished(self, key: str) -> None:
        del self._active[key]
        self._noted.pop(key, None)
        if key in self._again:
            self._again.remove(key)
            self._wake.set()

    async def _attempt(self, key: str, forced: bool) -> None:
        async with self._slots:
            row = await self._catalog.pending(key)
            if row is None or key in self._objects.moving:
                return  # nothing is to be done, or a copy is being made aside: not one to delete
            self._noted[key] = row.since_ns
            try:
                await self._process(row, forced)
            except Exception as error:
                self._retries.tell(key, row.attempts + 1, error)
                refused = isinstance(error, StoreError) and error.refused
                await self._catalog.pending_failed(key, reason_of(error), refused=refused)
                raise

    async def _process(self, row: Pending, forced: bool) -> None:
        """Do what the key needs. Whatever waits is followed by a new look: names may have moved
        meanwhile. Between the last look and the request to the store nothing suspends."""
        obstructed = False
        for _ in range(LOOKS):
            now = await self._catalog.pending(row.key)
            if now is None:
                return  # what is there turned out to be somebody else's
            row = now
            inode = await self._catalog.resolve(row.key)
            if inode is not None and not forced and self._opened.is_writing(inode.ino):
                return
            blocker = await self._blocker(row.key, inode)
            if blocker is None:
                try:
                    if await self._step(inode, row):
                        return
                except KeyObstructed:
                    if not await self._make_way(row.key):
                        if obstructed:
                            raise
                        obstructed = True  # our last deletion may have ended in between
            elif not await self._unblock(row.key, blocker, owned=inode is not None):
                return
        raise StoreUnavailable(f"{row.key!r} is being renamed faster than the store follows")

    async def _step(self, inode: Inode | None, row: Pending) -> bool:
        """One change of the store; False if the key has to be looked at again."""
        if inode is None:
            await self._objects.delete_many([row])
        elif inode.is_dir:
            await self._objects.put_marker(inode, row)
        elif not await self._objects.put_content(inode, row):
            return False
        elif inode.origin is not None:
            self._wake.set()  # what it was copied from may have to go
        return True

    async def _make_way(self, key: str) -> bool:
        """Carry out what is pending for keys above and below this one, which the store cannot
        hold at the same time. False: nothing is, somebody else's object is in the way."""
        rows = await self._catalog.pendings_around(key, PAGE)
        for row in rows:
            if (blocker := await self._blocker(row.key, None)) is not None:
                await self._unblock(key, blocker, owned=True)
            elif self._waits.would_cycle(key, row.key):
                raise StoreUnavailable(f"{key!r} waits for {row.key!r}, and that for it")
            elif row.key in self._active:
                await self._wait_for(key, row.key)
        await self._delete_many(rows)
        for row in rows:
            if row.key in self._retries:
                raise StoreUnavailable(f"{key!r} waits for {row.key!r} to be deleted")
        return bool(rows)

    async def _blocker(self, key: str, owner: Inode | None) -> Inode | None:
        """Another inode whose content still is in the object ``key``."""
        for other in await self._catalog.by_origin(key):
            if owner is None or other.ino != owner.ino:
                return other
        return None

    async def _unblock(self, key: str, other: Inode, *, owned: bool) -> bool:
        """Have the other inode's content moved to its own place; False: not before it is closed."""
        target = await self._catalog.path(other.ino)
        if target is None and not owned:
            return False  # an unlinked open file: deleted when it is closed
        if target is None or self._waits.would_cycle(key, target):
            await self._objects.move_aside(other)
            self._waits.free(other.origin or "")
        else:
            await self._wait_for(key, target)
        return True

    async def _wait_for(self, key: str, target: str) -> None:
        # The slot is lent while waiting, or a chain of renames could use them all up.
        self._slots.release()
        try:
            task = self._running(target) or self._begin(target, forced=True)
            await self._waits.wait(key, target, task)
        finally:
            await self._slots.acquire()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            soonest, left = 1.0, 0
            try:
                soonest, left = await self._pass()
            except Exception:
                log.exception("a pass over pending keys failed")
            if soonest < NEVER:
                self._wake_in(self._rest.look(soonest))
            # Changes come in crowds: look at them together.
            await asyncio.sleep(min(PASS_PAUSE_MAX, PASS_PAUSE + LOOK_PAUSE * left))

    async def _pass(self) -> tuple[float, int]:
        """Look at every pending key once; returns in how many seconds one is due that was left
        alone, and how many were."""
        now, soonest, left, after = time.monotonic(), NEVER, 0, ""
        others = self._retries.others  # as it is now: each key has its turn in a pass
        resting: dict[str, int] = {}
        while rows := await self._catalog.pendings(after, PAGE):
            after = rows[-1].key
            deletes: list[Pending] = []
            for number, row in enumerate(rows):
                if number % TURN == 0:
                    await asyncio.sleep(0)
                since_ns = self._resting.get(row.key, row.since_ns)
                not_before = self._retries.not_before(row.key, others if row.attempts else 0.0)
                due = max(not_before - now, self._rest.left(since_ns))
                if row.key in self._objects.moving:
                    continue
                if row.key in self._active:
                    if self._noted.get(row.key, row.since_ns) != row.since_ns:
                        self._again.add(row.key)
                    continue
                if due > 0:
                    if len(resting) < RETRY_MEMORY:
                        resting[row.key] = since_ns
                    soonest = min(soonest, due)
                    left += 1
                elif await self._is_plain_delete(row):
                    deletes.append(row)
                elif not await self._must_wait(row):
                    while self._slots.locked():
                        await asyncio.wait(
                            self._active.values(), return_when=asyncio.FIRST_COMPLETED
                        )
                    if row.key not in self._active:
                        self._begin(row.key, forced=False)
            await self._delete_many(deletes)
        self._resting = resting
        return soonest, left

    async def _must_wait(self, row: Pending) -> bool:
        inode = await self._catalog.resolve(row.key)
        return inode is not None and self._opened.is_writing(inode.ino)

    async def _is_plain_delete(self, row: Pending) -> bool:
        inode = await self._catalog.resolve(row.key)
        return inode is None and not await self._catalog.by_origin(row.key)

    async def _delete_many(self, rows: list[Pending]) -> None:
        # Looked at again: since the pass began names may have come back, and what was being stored
        # may have come to be there. Nothing suspends between this look and the mark in ``_active``.
        origins = await self._catalog.origins_among([row.key for row in rows])
        rows = [
            now
            for row in rows
            if not (row.key in self._active or row.key in origins)
            and (now := await self._catalog.pending(row.key)) is not None
            and await self._catalog.resolve(row.key) is None
        ]
        if not rows:
            return
        keys = [row.key for row in rows]
        task = asyncio.get_running_loop().create_task(self._objects.delete_many(rows))
        for row in rows:
            self._active[row.key] = task
            self._noted[row.key] = row.since_ns
        failed: list[str] = []
        try:
            await asyncio.shield(task)
        except Exception as error:
            self._retries.tell_deletions(rows, error)
            # Others of them may be pending anew: what has come to be there meanwhile.
            refused = error.reasons if isinstance(error, NotDeleted) else keys
            failed = [key for key in refused if await self._catalog.pending(key) is not None]
            self._retries.put_off(failed, DELETE_PAUSE)
            asyncio.get_running_loop().call_later(DELETE_PAUSE, self._wake.set)
            if not isinstance(error, NotDeleted):
                with contextlib.suppress(SlayerError):  # of a full disk
                    await self._catalog.pendings_failed(failed, reason_of(error))
        finally:
            for key in keys:
                if self._active.get(key) is task:  # else a new attempt has begun meanwhile
                    self._finished(key)
        for key in set(keys).difference(failed):
            self._retries.forget(key)
