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


NEAR = 256 << 10
"""Bytes, or the length of a request if that is more, that one may be ahead of where the last one
ended for the two to be in a row. Less than the slack of a reader that is known to read in sequence:
requests here and there in a few MiB are within that of each other all the time."""

NOWHERE = -2 * SLACK
"""A place that no request follows."""


class Window:
    """Sizes and offsets in bytes."""

    def __init__(self) -> None:
        self._next = 0
        self._size = MINIMUM
        self._read = 0

    @classmethod
    def at(cls, end: int, before: Window | None) -> Window:
        """That of a part of a file whose offsets begin anew behind ``end``: a reader who has read
        ``before``, the window of the part in front of it, to there reads on; to anybody else it is
        a jump."""
        window = cls()
        if before is not None and before.sequential and follows(end, before._next):
            window._size, window._read = before._size, before._read
        else:
            window._next, window._size = NOWHERE, 0
        return window

    @property
    def sequential(self) -> bool:
        return self._size > 0

    def note(self, offset: int, end: int, *, stalled: bool) -> int:
        """A request for [offset, end); returns the offset up to which to fetch (>= ``end``)."""
        if self._goes_on(offset, end):
            self._read += max(0, end - max(offset, self._next))
            size = max(self._size, 2 * self._read)
            self._size = min(MAXIMUM, max(MINIMUM, size * 2) if stalled else size)
            self._next = max(self._next, end)
        else:
            # A jump: back to nothing. Two requests in a row at the new place open it again.
            self._size = self._read = 0
            self._next = end
        return end + self._size

    def _goes_on(self, offset: int, end: int) -> bool:
        if self.sequential:
            return follows(offset, self._next)
        return 0 <= offset - self._next <= max(NEAR, end - offset)
