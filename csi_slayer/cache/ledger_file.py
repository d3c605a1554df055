"""The file in which all processes keep how many bytes the cache uses.

Words of 8 bytes, mapped by everybody: what is staged, how often a governor looked, how many
segments it found, how often all was counted; then two for each process, in a slot. A process has
locked its slot (a lock of the open file description, so it ends with the process, however that
ends) and is the only one that writes there: how much its own doing has added to what is taken (less
than nothing, if it gave back more), and how much of that it has reserved and not used. So nobody
ever waits for another process, which may have been stopped at any instant: what is taken is the sum
of the slots. The first word stays as it is when its process ends; the second is given back by
whoever notices that nobody has locked the slot.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from pathlib import Path

from csi_slayer.cache.oserrors import UNREADABLE, read_through, translated
from csi_slayer.errors import CacheError

_MAGIC = struct.pack("<Q", 0x32474C52594C53)
_STAGED, _ROUNDS, _COUNT, _CORRECTED = 1, 2, 3, 4
_SLOTS = 1024
_TAKEN, _SPARE = 8, 8 + _SLOTS
_BYTES = 8 * (_SPARE + _SLOTS)

_PATIENCE = 10.0
"""Seconds to wait for another process that makes the file."""


class LedgerFile:
    """The mapped words. Slots keep processes apart, not threads: calls that change something are
    to be made one at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._memory = self._map(path)
                self._words = memoryview(self._memory).cast("q")
                self._fence = threading.Lock()
                self._slot = self._take_slot()
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise translated(error, str(path)) from error

    def _map(self, path: Path) -> mmap.mmap:
        self._wait_for_turn(path)
        try:
            if os.fstat(self._fd).st_size < _BYTES:
                os.posix_fallocate(self._fd, 0, _BYTES)
            try:
                read_through(self._fd, _BYTES)
            except OSError as error:
                if error.errno not in UNREADABLE:
                    raise
                # Whole pages: to change a part of one it would have to be read.
                os.pwrite(self._fd, bytes(-(-_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE), 0)
            # By a description of its own: a mapping keeps the locks of the one that it was made by
            # for as long as the memory lives, and what is left of a killed process may still have
            # it (csi_slayer.node.remains).
            with open(f"/proc/self/fd/{self._fd}", "r+b") as own:
                memory = mmap.mmap(own.fileno(), _BYTES)
            if memory[:8] != _MAGIC:
                # New, or damaged: start from nothing; the governor's count corrects it.
                memory[:] = _MAGIC.ljust(_BYTES, b"\0")
            return memory
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _wait_for_turn(self, path: Path) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CacheError(
                        f"another process holds {path} and does not go on (is one stopped?)"
                    ) from None
                time.sleep(0.01)

    # -- slots -----------------------------------------------------------------------------

    def _lock_slot(self, slot: int, kind: int) -> bool:
        start = 8 * (_TAKEN + slot)
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
                self._give_back(slot)
                return slot
        raise CacheError(
            f"more than {_SLOTS} processes use this cache: give some a cache.directory of their own"
        )

    def _give_back(self, slot: int) -> None:
        # In this order: killed in between, too much counts as taken, never too little.
        left, self._words[_SPARE + slot] = self._words[_SPARE + slot], 0
        self._words[_TAKEN + slot] -= left

    def reclaim(self) -> None:
        """Give back what processes had left that died."""
        for slot in range(_SLOTS):
            if (
                self._words[_SPARE + slot]
                and slot != self._slot
                and self._lock_slot(slot, fcntl.F_WRLCK)
            ):
                self._give_back(slot)
                self._lock_slot(slot, fcntl.F_UNLCK)

    # -- what is used ----------------------------------------------------------------------

    @property
    def taken(self) -> int:
        """Bytes of segments, and what processes have reserved for more."""
        return max(0, sum(self._words[_TAKEN:_SPARE]))

    @property
    def used(self) -> int:
        """Bytes of segments."""
        return max(0, self._sum_used())

    def _sum_used(self) -> int:
        """Less than nothing where the file is newer than what has been given back."""
        return sum(self._words[_TAKEN:_SPARE]) - sum(self._words[_SPARE:])

    @property
    def spare(self) -> int:
        """Bytes that this process has reserved and not used."""
        return self._words[_SPARE + self._slot]

    def reserve(self, size: int, limit: int) -> bool:
        """Take ``size`` bytes, which this process has not used yet; False, and nothing is changed,
        if more than ``limit`` would be taken, or would be if all who try just now succeeded."""
        slot = self._slot
        self._words[_TAKEN + slot] += size
        with self._fence:
            pass  # Others see this before we look at theirs: of two that try, one sees the other.
        if self.taken > limit:
            self._words[_TAKEN + slot] -= size
            return False
        self._words[_SPARE + slot] += size
        return True

    def use(self, size: int) -> None:
        """So many of the reserved bytes are used now."""
        self._words[_SPARE + self._slot] -= size

    def unuse(self, size: int) -> None:
        """So many of the used bytes are reserved again."""
        self._words[_SPARE + self._slot] += size

    def unreserve(self, size: int) -> None:
        """Give so many of the reserved bytes back."""
        self._words[_SPARE + self._slot] -= size
        self._words[_TAKEN + self._slot] -= size

    def free(self, size: int) -> None:
        """So many used bytes, whoever took them, are there no longer."""
        self._words[_TAKEN + self._slot] -= size

    def correct(self, counted: int, used_before: int) -> None:
        """Make the number true: ``counted`` bytes were found, by a count that began when
        :attr:`used` was ``used_before``. What was written meanwhile is counted on top."""
        self.reclaim()
        now = self._sum_used()
        grown = max(0, now - used_before)
        self._words[_TAKEN + self._slot] += counted + grown - now
        self._words[_CORRECTED] += 1

    # -- what the governor says ------------------------------------------------------------

    @property
    def staged(self) -> int:
        """Bytes of staged files and conflicts when the governor last looked."""
        return self._words[_STAGED]

    @staged.setter
    def staged(self, size: int) -> None:
        self._words[_STAGED] = size

    @property
    def corrected(self) -> int:
        """How often the number was made true."""
        return self._words[_CORRECTED]

    @property
    def segments(self) -> int:
        """Number of segments when the governor last looked."""
        return self._words[_COUNT]

    @segments.setter
    def segments(self, number: int) -> None:
        self._words[_COUNT] = number

    @property
    def rounds(self) -> int:
        """How often a governor has finished looking."""
        return self._words[_ROUNDS]

    def finish_round(self, segments: int) -> None:
        self.segments = segments
        self._words[_ROUNDS] += 1

    def close(self) -> None:
        """Give the slot back, and what is in it."""
        self._give_back(self._slot)
        self._words.release()
        self._memory.close()
        os.close(self._fd)
