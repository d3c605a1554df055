"""The file in which all processes keep how many bytes the cache uses.

Words of 8 bytes, mapped by everybody: what is used, what is staged, how often a governor looked,
how many segments it found; then a slot for each process. A process has locked its slot (a lock of
the open file description, so it ends with the process, however that ends) and keeps in it what it
has reserved and not used. What is in a slot that nobody has locked is given back by whoever
notices.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

from csi_slayer.cache.oserrors import translated
from csi_slayer.errors import CacheError

_MAGIC = struct.pack("<Q", 0x31474C52594C53)
_USED, _STAGED, _ROUNDS, _COUNT = 1, 2, 3, 4
_FIRST_SLOT = 8
_SLOTS = 1024
_BYTES = 8 * (_FIRST_SLOT + _SLOTS)


class LedgerFile:
    """The mapped words. The file lock keeps processes apart, not threads: calls that change
    something are to be made one at a time."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                self._memory = self._map()
                self._words = memoryview(self._memory).cast("Q")
                self._slot = self._take_slot()
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise translated(error, str(path)) from error

    def _map(self) -> mmap.mmap:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if os.fstat(self._fd).st_size < _BYTES:
                os.posix_fallocate(self._fd, 0, _BYTES)
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

    # -- slots -----------------------------------------------------------------------------

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
                self._give_back(slot)
                return slot
        raise CacheError(f"more than {_SLOTS} processes use this cache")

    def _give_back(self, slot: int) -> None:
        left, self._words[_FIRST_SLOT + slot] = self._words[_FIRST_SLOT + slot], 0
        if left:
            self.add(-left)

    def set_spare(self, size: int) -> None:
        """What this process has reserved and not used."""
        self._words[_FIRST_SLOT + self._slot] = size

    def reclaim(self) -> None:
        """Give back what processes had left that died."""
        for slot in range(_SLOTS):
            if (
                self._words[_FIRST_SLOT + slot]
                and slot != self._slot
                and self._lock_slot(slot, fcntl.F_WRLCK)
            ):
                self._give_back(slot)
                self._lock_slot(slot, fcntl.F_UNLCK)

    # -- what is used ----------------------------------------------------------------------

    @property
    def taken(self) -> int:
        """Bytes of segments, and what processes have reserved for more."""
        return self._words[_USED]

    @property
    def used(self) -> int:
        """Bytes of segments."""
        return max(0, self._words[_USED] - sum(self._words[_FIRST_SLOT:]))

    def add(self, size: int, limit: int | None = None) -> bool:
        """Change what is taken; False, and nothing is changed, if it would exceed ``limit``."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            taken = max(0, self._words[_USED] + size)
            if limit is not None and taken > limit:
                return False
            self._words[_USED] = taken
            return True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def correct(self, counted: int, used_before: int) -> None:
        """Make the number true: ``counted`` bytes were found, by a count that began when
        :attr:`used` was ``used_before``. What was written meanwhile is counted on top."""
        self.reclaim()
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            spare = sum(self._words[_FIRST_SLOT:])
            grown = max(0, self._words[_USED] - spare - used_before)
            self._words[_USED] = counted + spare + grown
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    # -- what the governor says ------------------------------------------------------------

    @property
    def staged(self) -> int:
        """Bytes of staged files and conflicts when the governor last looked."""
        return self._words[_STAGED]

    @staged.setter
    def staged(self, size: int) -> None:
        self._words[_STAGED] = size

    @property
    def segments(self) -> int:
        """Number of segments when the governor last looked."""
        return self._words[_COUNT]

    @property
    def rounds(self) -> int:
        """How often a governor has finished looking."""
        return self._words[_ROUNDS]

    def finish_round(self, segments: int) -> None:
        self._words[_COUNT] = segments
        self._words[_ROUNDS] += 1

    def close(self) -> None:
        """Give the slot back, and what is in it."""
        self._give_back(self._slot)
        self._words.release()
        self._memory.close()
        os.close(self._fd)
