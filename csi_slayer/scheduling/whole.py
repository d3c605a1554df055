"""Whether who opens a large file reads all of it, as those did who opened such files before."""

from __future__ import annotations

from typing import Final

LARGE: Final = 512 << 20
"""Bytes of a file from which on it is worth knowing: what is gained with less is not felt."""

TRIAL: Final = 8
"""Of so many files that would be fetched at once one is not: what is read of it is seen."""

FIRST_TRIAL: Final = 3
"""Soon: of a file that is held open nothing else tells that little of it is read."""

FASTEST: Final = 20e9
"""Bytes a second that nobody reads: who closes a file sooner has not read all of it."""

ALL: Final = 0.9
"""The part of a file that counts as all of it."""


class WholeReads:
    """Of one volume. What was seen last counts."""

    def __init__(self) -> None:
        self._expected = True
        self._opens = 0

    def expected(self, size: int) -> bool:
        """Whether to fetch all of a file of ``size`` bytes that is opened."""
        if size < LARGE or not self._expected:
            return False
        self._opens += 1
        return self._opens % TRIAL != FIRST_TRIAL

    def held(self, size: int, seconds: float) -> None:
        """A file that the kernel reads by itself was open for so long."""
        if seconds < size / FASTEST:
            self._expected = False

    def read(self, size: int, count: int) -> None:
        """Of one that the kernel asked for, so many bytes were read."""
        if size >= LARGE:
            self._expected = count >= ALL * size
