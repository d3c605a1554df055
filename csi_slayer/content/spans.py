"""Of how many bytes the segments of a file are."""

from __future__ import annotations

from csi_slayer.cache import SMALL

PARTS, LEAST = 32, 16 << 20
"""Segments that the cache has room for, at least, of a file that is more than one, and bytes of
each at least."""


class Spans:
    """``most``: bytes of the largest file that is one segment: never so many that it fills the
    cache."""

    def __init__(self, segment_max: int, capacity: int) -> None:
        self.most = max(SMALL, min(segment_max, capacity // 4) // SMALL * SMALL)
        # A power of two: a capacity that follows the free space leaves most pieces as they are.
        power = 1 << max(1, capacity // PARTS).bit_length() - 1
        self._part = min(self.most, max(LEAST, power))

    def of(self, size: int) -> int:
        """Bytes of each segment of a file but the last. Those of a large one are smaller: what is
        open cannot be evicted, and the rest of the file is to make room for it."""
        return self.most if size <= self.most else self._part
