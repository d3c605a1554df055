"""How many bytes the cache may use: one hard limit for all processes.

Processes take room from the shared number in grains, and hand it out to themselves from the grain.

Staged files are written by the kernel, without us, so their bytes cannot be reserved: the governor
measures them, and they count like the others.
"""

from __future__ import annotations

import os
import threading
import time

from csi_slayer.cache.bell import ring
from csi_slayer.cache.filesystem import allocation_unit
from csi_slayer.cache.layout import SMALL, Layout
from csi_slayer.cache.ledger_file import LedgerFile
from csi_slayer.cache.oserrors import translated
from csi_slayer.errors import CacheError, CacheFull

GRAIN = 8 << 20
"""Bytes taken from the shared number at once, if there is that much."""

PAGE = 4096

_POLL = 0.005

FREE_KNOWN = 0.05
"""Seconds for which the free space of the disk is believed when a staged file is made or names are
learned: what it is for is far from exact, and many may be made in that time."""

FREE_FILES, FREE_FILES_LEAST, FREE_FILES_SHARE = 16384, 64, 50
"""Files that can still be made on the disk when the governor begins to remove segments for them: a
fiftieth of all, at most and at least so many. Small segments use up ext4's inodes before its
space."""


class Ledger:
    """One process's view. Thread-safe; to be created after a fork, not before.

    ``file`` is for reading, except for the governor. ``unit``: bytes that files grow by on
    the disk.
    """

    def __init__(self, layout: Layout, capacity: int, min_free: int) -> None:
        self.capacity = capacity
        self.min_free = min_free
        self.high = capacity * 95 // 100
        self.low = capacity * 90 // 100
        self.unit = allocation_unit(str(layout.root), PAGE)
        self.file = LedgerFile(layout.ledger)
        self._layout = layout
        self._grain = max(PAGE, min(GRAIN, capacity // 512))
        self._lock = threading.Lock()
        self._closed = False
        self._no_wait_before = 0.0
        self._free = (0, False, 0.0)

    def on_disk(self, size: int) -> int:
        """The room that ``size`` bytes of a file take on the disk."""
        return -(-size // self.unit) * self.unit

    # -- reserving -------------------------------------------------------------------------

    def reserve(self, size: int, wait: float = 0.0, *, staged: int = 0) -> None:
        """Take room for ``size`` bytes before they are written; raises CacheFull, CacheError.

        ``wait`` seconds at most (in a thread, not on an event loop) are spent waiting for the
        governor to make room. ``staged`` of the bytes are on the disk already, in a staged file.
        """
        if self._try(size, staged):
            return
        ring(self._layout)
        if not (wait and self._wait(size, wait, staged)):
            raise CacheFull(f"the cache is full ({self.capacity} bytes, or the disk's free space)")

    def _try(self, size: int, staged: int) -> bool:
        with self._lock:
            if self._closed:
                raise CacheError("the cache is closed")
            if size > self.file.spare and not self._refill(size, staged):
                return False
            self.file.use(size)
            return True

    def _refill(self, size: int, staged: int) -> bool:
        others = max(0, self.file.staged - staged)
        for grain in (max(size, self._grain), size - self.file.spare):
            if grain > staged and self.free_space() - (grain - staged) < self.min_free:
                continue
            if self.file.reserve(grain, self.capacity - others):
                if self.file.taken + self.file.staged > self.high:
                    ring(self._layout)
                return True
        return False

    def _wait(self, size: int, seconds: float, staged: int) -> bool:
        """Wait until there is room, or the governor has looked and found none to make."""
        if self.is_full:
            return False
        deadline, rounds = time.monotonic() + seconds, self.file.rounds
        # The round under way when we rang may have begun too early; the next one has not.
        while time.monotonic() < deadline and self.file.rounds < rounds + 2:
            time.sleep(_POLL)
            if self._try(size, staged):
                return True
            ring(self._layout)
        # What could not be had will not be had at once: do not let every block wait for it.
        self._no_wait_before = time.monotonic() + seconds
        return False

    @property
    def is_full(self) -> bool:
        """Whether who waited for room lately got none: who asks now would get none either."""
        return time.monotonic() < self._no_wait_before

    def release(self, size: int) -> None:
        """Give back room that was reserved and is not used."""
        with self._lock:
            if self._closed:
                return
            self.file.unuse(size)
            surplus = self.file.spare - self._grain
            if surplus > self._grain:
                self.file.unreserve(surplus)

    # -- changes that need no room ---------------------------------------------------------

    def freed(self, size: int) -> None:
        """Segments of ``size`` bytes were removed, or became staged files."""
        with self._lock:
            if not self._closed:
                self.file.free(size)

    def counted(self, size: int, used_before: int) -> None:
        """All segments together have ``size`` bytes; see :meth:`LedgerFile.correct`."""
        with self._lock:
            self.file.correct(size, used_before)

    @property
    def counts(self) -> int:
        """How often all segments were counted."""
        with self._lock:
            return 0 if self._closed else self.file.corrected

    # -- limits ----------------------------------------------------------------------------

    def free_space(self) -> int:
        """Bytes that the file system has free. Raises CacheError."""
        state = self._file_system()
        return state.f_bavail * state.f_frsize

    def excess_files(self) -> int:
        """How many files have to be removed to have twice the floor's number of free ones; 0 above
        the floor, and where the file system has no limit. Raises CacheError."""
        state = self._file_system()
        floor = min(FREE_FILES, max(FREE_FILES_LEAST, state.f_files // FREE_FILES_SHARE))
        limited = state.f_files > 0
        return 2 * floor - state.f_favail if limited and state.f_favail < floor else 0

    def _file_system(self) -> os.statvfs_result:
        try:
            return os.statvfs(self._layout.root)
        except OSError as error:
            raise translated(error, f"the file system of {self._layout.root}") from error

    def check_staging(self) -> None:
        """Raises CacheFull if staged bytes alone fill the cache, or the disk is almost full;
        CacheError.

        Clean segments are no reason: the governor is asked to remove some.
        """
        free, crowded = self._lately_free()
        staged = self.file.staged
        if crowded or free < self.min_free or self.file.taken + staged > self.high:
            ring(self._layout)
        if staged >= self.capacity or free < self.min_free // 2:
            raise CacheFull(f"no room for more data that the store does not have yet ({free} free)")

    def check_names(self) -> None:
        """Raises CacheFull if the disk has so little free that names which can be asked for again
        are not to take of it: sooner than staged files are refused; CacheError."""
        free, floor = self._lately_free()[0], self.min_free * 3 // 4
        if free < floor:
            raise CacheFull(f"the cache's disk has less than {floor} bytes free (cache.min_free)")

    def _lately_free(self) -> tuple[int, bool]:
        free, crowded, until = self._free
        now = time.monotonic()
        if now >= until:
            free, crowded = self.free_space(), self.excess_files() > 0
            self._free = (free, crowded, now + FREE_KNOWN)
        return free, crowded

    def excess(self) -> int:
        """Bytes to be evicted to get back below the low mark; 0 while below the high mark."""
        total = self.file.taken + self.file.staged
        # Below the high mark, yet a small file's worth of room may be what somebody waits for.
        margin = min(SMALL, self.capacity // 8)
        excess = total - self.low if total > min(self.high, self.capacity - margin) else 0
        below_floor = self.min_free - self.free_space()
        if below_floor > 0:
            excess = max(excess, below_floor + self.capacity // 20)
        return min(max(0, excess), self.file.used)

    def close(self) -> None:
        """Give back this process's grain."""
        with self._lock:
            self._closed = True
            self.file.close()
