"""How many bytes the cache uses: one number for all processes, and a hard limit.

The number is a word of a file that all map. Processes take room from it in grains, under a file
lock, and hand it out to themselves from the grain without one. Each keeps what is left of its
grain in a slot of the file that it has locked: when a process dies, the kernel drops that lock,
and the rest of its grain is nobody's and is given back.

Staged files are written by the kernel, without us, so their bytes cannot be reserved: the governor
measures them, and they count like the others.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time

from csi_slayer.cache.bell import ring
from csi_slayer.cache.layout import SMALL, Layout
from csi_slayer.errors import CacheError, CacheFull

GRAIN = 8 << 20
"""Bytes taken from the shared number at once, if there is that much."""

PAGE = 4096

_MAGIC = 0x31474C52594C53
_USED, _STAGED, _ROUNDS, _COUNT = 1, 2, 3, 4
_FIRST_SLOT = 8
_SLOTS = 1024
_BYTES = 8 * (_FIRST_SLOT + _SLOTS)
_POLL = 0.005


def on_disk(size: int) -> int:
    """The room that ``size`` bytes of a file take on the disk."""
    return -(-size // PAGE) * PAGE


class Ledger:
    """One process's view. Thread-safe; to be created after a fork, not before."""

    def __init__(self, layout: Layout, capacity: int, min_free: int) -> None:
        self.capacity = capacity
        self.min_free = min_free
        self.high = capacity * 95 // 100
        self.low = capacity * 90 // 100
        self._layout = layout
        self._grain = max(PAGE, min(GRAIN, capacity // 512))
        self._lock = threading.Lock()
        self._spare = 0
        self._no_wait_before = 0.0
        self._fd = os.open(layout.ledger, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._memory = self._map()
            self._words = memoryview(self._memory).cast("Q")
            self._slot = self._take_slot()
        except BaseException:
            os.close(self._fd)
            raise

    def _map(self) -> mmap.mmap:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if os.fstat(self._fd).st_size < _BYTES:
                os.posix_fallocate(self._fd, 0, _BYTES)
            memory = mmap.mmap(self._fd, _BYTES)
            if memory[:8] != struct.pack("<Q", _MAGIC):
                # New, or damaged: start from nothing; the governor's count corrects it.
                memory[:] = struct.pack("<Q", _MAGIC).ljust(_BYTES, b"\0")
            return memory
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock_slot(self, slot: int, kind: int) -> bool:
        start = 8 * (_FIRST_SLOT + slot)
        try:
            # struct flock: type, whence, start, length, pid (0 for locks of a file description).
            fcntl.fcntl(
                self._fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, 8, 0)
            )
        except BlockingIOError:
            return False
        return True

    def _take_slot(self) -> int:
        for slot in range(_SLOTS):
            if self._lock_slot(slot, fcntl.F_WRLCK):
                self._reclaim(slot)
                return slot
        raise CacheError(f"more than {_SLOTS} processes use the cache {self._layout.root}")

    def _reclaim(self, slot: int) -> None:
        """Give back what the slot's dead owner had left."""
        left, self._words[_FIRST_SLOT + slot] = self._words[_FIRST_SLOT + slot], 0
        if left:
            self._add(-left)

    def _add(self, size: int) -> None:
        """Change the shared number."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._words[_USED] = max(0, self._words[_USED] + size)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    # -- reserving -------------------------------------------------------------------------

    def reserve(self, size: int, wait: float = 0.0) -> None:
        """Take room for ``size`` bytes before they are written; raises CacheFull.

        ``wait`` seconds at most (in a thread, not on an event loop) are spent waiting for the
        governor to make room.
        """
        if self._try(size):
            return
        ring(self._layout)
        if not (wait and self._wait(size, wait)):
            raise CacheFull(f"the cache is full ({self.capacity} bytes, or the disk's free space)")

    def _try(self, size: int) -> bool:
        with self._lock:
            if size > self._spare and not self._refill(size):
                return False
            self._spare -= size
            self._words[_FIRST_SLOT + self._slot] = self._spare
            return True

    def _refill(self, size: int) -> bool:
        for grain in (max(size, self._grain), size - self._spare):
            if not self._floor_allows(grain):
                continue
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                used = self._words[_USED] + grain
                if used + self._words[_STAGED] > self.capacity:
                    continue
                self._words[_USED] = used
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._spare += grain
            if used + self._words[_STAGED] > self.high:
                ring(self._layout)
            return True
        return False

    def _floor_allows(self, size: int) -> bool:
        return self.free_space() - size >= self.min_free

    def _wait(self, size: int, seconds: float) -> bool:
        """Wait until there is room, or the governor has looked and found none to make."""
        now = time.monotonic()
        if now < self._no_wait_before:
            return False
        deadline, rounds = now + seconds, self.rounds
        while time.monotonic() < deadline and self.rounds < rounds + 2:
            time.sleep(_POLL)
            if self._try(size):
                return True
            ring(self._layout)
        # What could not be had will not be had at once: do not let every block wait for it.
        self._no_wait_before = time.monotonic() + seconds
        return False

    def release(self, size: int) -> None:
        """Give back room that was reserved and is not used."""
        with self._lock:
            self._spare += size
            surplus = self._spare - self._grain
            if surplus > self._grain:
                self._spare -= surplus
                self._add(-surplus)
            self._words[_FIRST_SLOT + self._slot] = self._spare

    # -- changes that need no room ---------------------------------------------------------

    def freed(self, size: int) -> None:
        """Segments of ``size`` bytes were removed, or became staged files."""
        with self._lock:
            self._add(-size)

    def adopted(self, size: int) -> None:
        """A staged file of ``size`` bytes has become a segment."""
        with self._lock:
            self._add(size)

    # -- reading ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes of segments, as far as is known without looking at the files."""
        spare = sum(self._words[_FIRST_SLOT:])
        return max(0, self._words[_USED] - spare)

    @property
    def staged(self) -> int:
        """Bytes of staged files and conflicts when the governor last looked."""
        return self._words[_STAGED]

    @property
    def segments(self) -> int:
        """Number of segments when the governor last looked."""
        return self._words[_COUNT]

    @property
    def rounds(self) -> int:
        """How often a governor has finished looking."""
        return self._words[_ROUNDS]

    def free_space(self) -> int:
        """Bytes that the file system has free."""
        state = os.statvfs(self._layout.root)
        return state.f_bavail * state.f_frsize

    def check_staging(self) -> None:
        """Raises CacheFull if staged bytes alone fill the cache, or the disk is almost full.

        Clean segments are no reason: the governor is asked to remove some.
        """
        free = self.free_space()
        if free < self.min_free or self._words[_USED] + self.staged > self.high:
            ring(self._layout)
        if self.staged >= self.capacity or free < self.min_free // 2:
            raise CacheFull(f"no room for more data that the store does not have yet ({free} free)")

    # -- for the governor ------------------------------------------------------------------

    def excess(self) -> int:
        """Bytes to be evicted to get back below the low mark; 0 while below the high mark."""
        total = self._words[_USED] + self.staged
        # Below the high mark, yet a small file's worth of room may be what somebody waits for.
        margin = min(SMALL, self.capacity // 8)
        excess = total - self.low if total > min(self.high, self.capacity - margin) else 0
        below_floor = self.min_free - self.free_space()
        if below_floor > 0:
            excess = max(excess, below_floor + self.capacity // 20)
        return min(max(0, excess), self.used)

    def set_staged(self, size: int) -> None:
        self._words[_STAGED] = size

    def finish_round(self, segments: int) -> None:
        self._words[_COUNT] = segments
        self._words[_ROUNDS] += 1

    def correct(self, counted: int, used_before: int) -> None:
        """Make the number true: ``counted`` bytes were found, by a count that began when
        :attr:`used` was ``used_before``. What was written meanwhile is counted on top."""
        with self._lock:
            for slot in range(_SLOTS):
                if (
                    self._words[_FIRST_SLOT + slot]
                    and slot != self._slot
                    and self._lock_slot(slot, fcntl.F_WRLCK)
                ):
                    self._reclaim(slot)
                    self._lock_slot(slot, fcntl.F_UNLCK)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                spare = sum(self._words[_FIRST_SLOT:])
                grown = max(0, self._words[_USED] - spare - used_before)
                self._words[_USED] = counted + spare + grown
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give back this process's grain."""
        with self._lock:
            self._reclaim(self._slot)
            self._words.release()
            self._memory.close()
            os.close(self._fd)
