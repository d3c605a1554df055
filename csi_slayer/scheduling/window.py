"""How far to read ahead in one file.

The window doubles while a sequential reader stalls (it outruns the store), is never less than twice
what was read in sequence, and closes at once when the reader jumps. So whoever looks at the
beginning of a file costs little, whoever reads on has many transfers under way soon, and random
readers fetch what they ask for and nothing else. The kernel reads ahead by itself, so a reader may
be held up without any request that stalls here: what it has read tells more than the stalls.
"""

from __future__ import annotations

MINIMUM = 1 << 20
MAXIMUM = 64 << 20

SLACK = 4 << 20
"""Bytes that a request may be away from the expected position and still count as sequential:
the kernel's own readahead sends requests in flight out of order."""


def follows(offset: int, expected: int) -> bool:
    """Whether a request at ``offset`` is one of a reader in sequence that is at ``expected``."""
    return expected - SLACK <= offset <= expected + SLACK


class Window:
    """Sizes and offsets in bytes. ``ahead_end`` is how far fetching should have been started."""

    def __init__(self) -> None:
        self._next = 0
        self._size = MINIMUM
        self._read = 0

    @property
    def sequential(self) -> bool:
        return self._size > 0

    def note(self, offset: int, end: int, *, stalled: bool) -> int:
        """A request for [offset, end); returns the offset up to which to fetch (>= ``end``)."""
        if follows(offset, self._next):
            self._read += max(0, end - self._next)
            size = max(self._size, 2 * self._read)
            self._size = min(MAXIMUM, max(MINIMUM, size * 2) if stalled else size)
            self._next = max(self._next, end)
        else:
            # A jump: back to nothing. Two requests in a row at the new place open it again.
            self._size = self._read = 0
            self._next = end
        return end + self._size
