"""The one process of a node that evicts."""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import threading
import time
from collections.abc import Iterator
from contextvars import copy_context
from typing import NamedTuple

from csi_slayer.cache.bell import open_bell, ring, silence
from csi_slayer.cache.cache import Cache
from csi_slayer.cache.oserrors import translated
from csi_slayer.cache.s3fifo import S3Fifo
from csi_slayer.cache.staging import disk_usage
from csi_slayer.cache.sweep import evict, key_and_pages, names, record_of, sweep
from csi_slayer.errors import CacheError
from csi_slayer.observability.logging import get_logger

log = get_logger(__name__)

PERIOD = 1.0
"""Seconds between looks at the staged bytes, more if looking takes long."""

SWEEP_PERIOD = 600.0
"""Seconds between counts of all that is there. Sooner, if as much was removed as the cache holds,
or less could be removed than had to be: small errors in what is said to be used add up."""

NAMES_PERIOD = 5.0
"""Seconds between counts of the segments alone, if bytes came or went, and until all that is there
may be counted sooner; at least a hundred times what the last one took."""

BATCH = 64
"""Evictions after which the shared number of used bytes is brought up to date."""

KNOWN = 1 << 17
"""Segments in the queues of the eviction policy, about 20 MB, and as many more as are open; nothing
is there before something has to be evicted. Of more segments the oldest are looked at, and further
ones when half of those are gone."""


class Evicted(NamedTuple):
    segments: int
    size: int


class Governor:
    """Keeps a cache below its capacity and the disk above its floor, in a thread of its own.

    Any number of processes may run one: whoever gets the lock file's ``flock`` governs, the others
    look once a second whether they are needed. The order of eviction is not stored: a new
    governor derives it from the files' times and the shared marks.
    """

    def __init__(self, cache: Cache) -> None:
        self._shared = cache.shared
        self._layout = cache.shared.layout
        self._ledger = cache.shared.ledger
        self._file = cache.shared.ledger.file
        self._policy = S3Fifo(self._mark, self._set_mark)
        self._in_use = 0
        self._segments = 0
        self._counted_at = 0
        self._count_names_after = 0.0
        self._doubted = False
        self._evicted = 0
        self._count_after = 0.0
        self._lock_fd = -1
        self._bell = -1
        self._stop = threading.Event()
        self._busy = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to govern, or to stand by."""
        run = copy_context().run  # so that what is logged says of which volume it is
        self._thread = threading.Thread(
            target=run, args=(self._run,), name="cache-governor", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop; waits for an eviction under way. Blocks."""
        self._stop.set()
        ring(self._layout)
        if self._thread is not None:
            self._thread.join()

    @property
    def governs(self) -> bool:
        """Whether this is the node's governor now."""
        return self._lock_fd >= 0

    def evict(self, target: int, files: int = 0) -> Evicted:
        """Remove segments of at least ``target`` bytes, and with at least ``files`` files, if that
        many can be removed.

        Only on the governor, after :meth:`take_over`. Blocks: in a thread. Raises CacheError.
        """
        with self._busy:
            try:
                self._discover()
                return self._evict(target, files)
            except OSError as error:
                raise translated(error, "evicting") from error

    def take_over(self) -> bool:
        """Become the governor if there is none; counts and cleans. Blocks: in a thread."""
        fd = os.open(self._layout.governor_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock_fd = fd
        self._bell = open_bell(self._layout)
        with self._busy:
            self._count()
        return True

    def step_down(self) -> None:
        """Let another process govern."""
        for fd in (self._bell, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._bell = self._lock_fd = -1

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    if self.take_over():
                        log.info("cache governor took over", segments=self._segments)
                        self._govern()
                except (OSError, CacheError) as error:
                    log.error("cache governor failed, trying again", error=str(error))
                    self.step_down()
                self._stop.wait(PERIOD)
        finally:
            self.step_down()

    def _govern(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        next_sweep = time.monotonic() + SWEEP_PERIOD
        pause = PERIOD
        while not self._stop.is_set():
            started = time.monotonic()
            if started > next_sweep:
                with self._busy:
                    self._count()
                next_sweep = time.monotonic() + SWEEP_PERIOD
            self.look()
            pause = max(PERIOD, 20 * (time.monotonic() - started))
            poll.poll(pause * 1000)
            silence(self._bell)

    def look(self) -> Evicted:
        """One round: measure the staged bytes, evict if there is need. Blocks."""
        if self._doubted and time.monotonic() > self._count_after:
            with self._busy:
                self._count()
        self._file.staged = disk_usage(self._layout.staged) + disk_usage(self._layout.kept)
        self._count_names()
        excess, files = self._ledger.excess(), self._ledger.excess_files()
        evicted = self.evict(excess, files) if excess or files else Evicted(0, 0)
        self._file.finish_round(self._segments)
        self._evicted += evicted.size
        self._doubted |= self._evicted > self._ledger.capacity or evicted.size < excess
        if evicted.size < excess or evicted.segments < files:
            log.debug(
                "cache governor found too little to evict",
                wanted=excess, wanted_files=files, freed=evicted.size, files=evicted.segments,
            )  # fmt: skip
        return evicted

    # -- knowing what there is -------------------------------------------------------------

    def _count(self) -> None:
        """Look at every file: correct the ledger, forget segments that have vanished."""
        before, began = self._file.used, time.monotonic()
        found = sweep(self._layout)
        self._ledger.counted(found.used, before)
        self._segments = found.segments
        self._counted_at = self._file.used
        self._file.segments = found.segments
        self._evicted, self._doubted = 0, False
        ended = time.monotonic()
        self._count_after = ended + max(NAMES_PERIOD, 100 * (ended - began))
        if len(self._policy) > 2 * found.segments + 1000:
            # Mostly names of segments that others removed: learn the rest anew at the next round.
            self._policy, self._in_use = S3Fifo(self._mark, self._set_mark), 0

    def _count_names(self) -> None:
        """Have the number of segments follow the bytes: it is for people to look at."""
        used, began = self._file.used, time.monotonic()
        if used != self._counted_at and began >= self._count_names_after:
            self._segments = sum(1 for _ in names(self._layout))
            self._counted_at = used
            ended = time.monotonic()
            self._count_names_after = ended + max(NAMES_PERIOD, 100 * (ended - began))

    def _discover(self) -> None:
        """Put segments that are not known into the queues, the oldest first, unless many are.
        What was found to be open does not count: it may be all that is known."""
        room = KNOWN - len(self._policy) + self._in_use
        if room >= KNOWN // 2:
            for record in heapq.nsmallest(room, self._unknown()):
                self._policy.admit(*key_and_pages(record))

    def _unknown(self) -> Iterator[bytes]:
        """Records of segments; only the names are read of those known already."""
        count = 0
        for name in names(self._layout):
            count += 1
            if int(name, 16) not in self._policy:
                record = record_of(self._layout, name)
                if record is not None:
                    yield record
        self._segments = count

    # -- evicting --------------------------------------------------------------------------

    def _evict(self, target: int, files: int) -> Evicted:
        freed = count = pending = 0
        in_use: list[tuple[int, int]] = []
        try:
            while freed < target or count < files:
                victim = self._policy.pop()
                if victim is None:
                    break
                size = evict(self._layout, f"{victim[0]:032x}")
                if size is None:
                    in_use.append(victim)
                    continue
                if size:
                    count += 1
                    freed += size
                    pending += size
                if count % BATCH == 0 and pending:
                    self._ledger.freed(pending)
                    pending = 0
        finally:  # what is gone is gone, also if the next one cannot be removed
            self._ledger.freed(pending)
            self._segments -= count
            self._policy.put_back(in_use)
            self._in_use = len(in_use)
            self._shared.events.evicted_segments.add(count)
            self._shared.events.evicted_bytes.add(freed)
        return Evicted(count, freed)

    def _mark(self, key: int) -> int:
        return self._shared.marks.get(f"{key:032x}")

    def _set_mark(self, key: int, count: int) -> None:
        self._shared.marks.set(f"{key:032x}", count)
