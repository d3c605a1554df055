"""What a reader that goes through a file once has left behind.

Where memory is dear, the pages of what was read already are worth more as the pages of what comes:
they can be used again at once. Each part of a file is named once, so that whoever reads it a second
time (a mapped file whose pages are used again and again) keeps it.
"""

from __future__ import annotations

from csi_slayer.scheduling.window import follows

KEEP = 32 << 20
"""Bytes behind the foremost reader that stay: for others that read the same a little later."""

STEP = 8 << 20
"""Fewest bytes to drop at once."""


class Behind:
    """Of one open file; offsets in bytes, multiples of STEP."""

    def __init__(self) -> None:
        self._next = 0
        self._start = 0

    def note(self, offset: int, end: int, *, drop: bool) -> range | None:
        """[offset, end) was read; returns what can be dropped now if ``drop``."""
        if not follows(offset, self._next):
            # A jump. What lies in between was perhaps never read, what lies before was named.
            self._start = max(self._start, -(-offset // STEP) * STEP)
            self._next = end
            return None
        self._next = max(self._next, end)
        stop = (self._next - KEEP) // STEP * STEP
        if not drop or stop <= self._start:
            return None
        passed = range(self._start, stop)
        self._start = stop
        return passed
