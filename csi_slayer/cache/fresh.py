"""Pieces of objects as they came from the network, in memory until their reader has come for them.

What is fetched goes to the disk around the page cache (see :mod:`csi_slayer.cache.direct`), so the
reader that waits for it is answered from here. Nothing depends on a piece being here: the bytes are
in the segment too, and whoever finds none reads them there.
"""

from __future__ import annotations

import mmap
import threading
import time
from typing import Final, NamedTuple

from csi_slayer.cache.layout import BLOCK

PIECE: Final = 4 * BLOCK
"""Bytes that a download hands over at once: enough to make the calls for each cheap, few enough
to stay in the processor's cache on their way from the socket to the file."""

MOST: Final = 128
"""Pieces that a process has at most, 64 MiB: the largest window of one reader."""

IDLE: Final = 8
"""Pieces whose memory is kept when no reader has any."""

PATIENCE: Final = 2.0
"""Seconds after which a piece that nobody came for makes room for another one."""


class Piece:
    """``memory`` is PIECE bytes, page-aligned. It is used again when nothing refers to this object
    any more: whoever hands on a view of it hands on the object with it."""

    __slots__ = ("_free", "memory")

    def __init__(self, free: list[memoryview], memory: memoryview) -> None:
        self._free = free
        self.memory = memory

    def __del__(self) -> None:
        self._free.append(self.memory)


class _Kept(NamedTuple):
    piece: Piece
    start: int
    since: float


class Claimed(NamedTuple):
    """``views`` hold the bytes, good as long as somebody has ``pieces``."""

    views: list[memoryview]
    pieces: list[Piece]


class Fresh:
    """The pieces of a process. Methods may be called from any thread and take microseconds.

    ``owner`` is whose blocks are meant: a number that :meth:`new_owner` gave. The owner keeps only
    what its segment holds, too.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.made = 0
        """Pieces whose memory there is."""
        self._free: list[memoryview] = []
        self._kept: dict[tuple[int, int], _Kept] = {}  # oldest first
        self._owners = 0
        self._lock = threading.Lock()

    def new_owner(self) -> int:
        with self._lock:
            self._owners += 1
            return self._owners

    def take(self) -> Piece | None:
        """Memory to receive into; None if all is in use."""
        with self._lock:
            if not self._free:
                if self.made < self._most:
                    self.made += 1
                    return Piece(self._free, memoryview(mmap.mmap(-1, PIECE)))
                self._drop_oldest()
            return Piece(self._free, self._free.pop()) if self._free else None

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._kept.values()), None)
        if oldest is None or time.monotonic() - oldest.since < PATIENCE:
            return
        for key in [key for key, kept in self._kept.items() if kept.piece is oldest.piece]:
            del self._kept[key]

    def keep(self, owner: int, offset: int, piece: Piece, size: int) -> None:
        """The first ``size`` bytes of ``piece`` are those of the segment from ``offset`` on, which
        is a multiple of BLOCK."""
        now = time.monotonic()
        with self._lock:
            for start in range(0, size, BLOCK):
                self._kept[owner, (offset + start) // BLOCK] = _Kept(piece, start, now)

    def has(self, owner: int, offset: int, end: int) -> bool:
        """Whether :meth:`claim` would find all of [offset, end)."""
        kept = self._kept
        return all((owner, b) in kept for b in range(offset // BLOCK, (end - 1) // BLOCK + 1))

    def claim(self, owner: int, offset: int, end: int) -> Claimed | None:
        """The bytes [offset, end), which must not be empty; None if not all of them are here.

        A block that was claimed up to its end is not kept any longer: the kernel has it now.
        """
        first, last = offset // BLOCK, (end - 1) // BLOCK
        kept = self._kept
        claimed = Claimed([], [])
        with self._lock:
            runs: list[tuple[Piece, int, int]] = []
            for block in range(first, last + 1):
                found = kept.get((owner, block))
                if found is None:
                    return None
                piece, start, _since = found
                begin = start + max(0, offset - block * BLOCK)
                stop = start + min(BLOCK, end - block * BLOCK)
                if runs and runs[-1][0] is piece and runs[-1][2] == begin:
                    begin = runs.pop()[1]
                runs.append((piece, begin, stop))
            for block in range(first, end // BLOCK):
                del kept[owner, block]
        for piece, begin, stop in runs:
            claimed.views.append(piece.memory[begin:stop])
            claimed.pieces.append(piece)
        return claimed

    def forget(self, owner: int) -> None:
        """Keep nothing of this owner's any longer."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                del self._kept[key]
            if len(self._free) == self.made > IDLE:
                del self._free[IDLE:]
                self.made = IDLE
