"""Whether what is fetched is written to the disk around the page cache (O_DIRECT).

A byte that is fetched for a reader ends in the kernel's pages of the mounted file. A second copy in
the page cache of the cache's own file is cheap while there is memory to spare. Where there is not
(a control group at its limit, a virtual machine whose free memory its host took back, more dirty
pages than the kernel allows) it costs as much as all the rest of its way. So writes are direct
while the page cache is dear and the disk is fast.
"""

from __future__ import annotations

import math
import time
from typing import Final, Literal

DirectMode = Literal["auto", "always", "never"]

ALIGNMENT: Final = 4096
"""Bytes that position and length of a direct write are multiples of."""

_SAMPLE: Final = 32
"""Pieces after which the costs are looked at."""

_TURN: Final = 512
"""Direct pieces after which the page cache is tried again, at first; twice as many after each
trial that found it dear."""

_MOST_TURN: Final = 16384
"""Most of them, 8 GiB."""

_DEAR_CPU: Final = 0.3e-3
"""Seconds of processor time for a piece through the page cache; a healthy one takes a third."""

_DEAR_WAIT: Final = 5e-3
"""Seconds for a piece either way: 100 MB/s for each of the transfers."""

_PAUSE: Final = 30.0
"""Seconds until a disk that was slow is tried again."""


class Direct:
    """The decision for one process's cache directory. Safe to use from any thread: what a race
    between two of them loses is a part of a sample."""

    def __init__(self, mode: DirectMode = "auto") -> None:
        self.now = mode == "always"
        """Whether the next piece should be written directly."""
        self.dear = self.now
        """Whether the page cache is dear, be the disk fast or not."""
        self._decides = mode == "auto"
        self._not_before = 0.0
        self._turn = _TURN
        self._cached_wall = 0.0
        self._pieces = 0
        self._cpu = self._wall = 0.0

    def wanted(self, *, cached: bool) -> bool:
        """Whether to write a piece directly; ``cached``: it is read from the page cache next, and
        would have to come back from the disk."""
        return self.now and not (cached and self._decides)

    def note(self, direct: bool, cpu: float, wall: float) -> None:
        """A piece that was written so took so many seconds of processor time, and in all."""
        if direct is not self.now or not self._decides:
            return
        self._pieces += 1
        self._cpu += cpu
        self._wall += wall
        if direct:
            self._note_direct()
        else:
            self._note_cached()

    def _note_cached(self) -> None:
        # A trial is over as soon as it has cost what a whole sample may.
        if self._cpu > _SAMPLE * _DEAR_CPU or self._wall > _SAMPLE * _DEAR_WAIT:
            self.dear = True
            self._cached_wall = self._wall / self._pieces
            self._begin(direct=time.monotonic() >= self._not_before)
        elif self._pieces == _SAMPLE:
            self.dear = False
            self._turn = _TURN
            self._begin(direct=False)

    def _note_direct(self) -> None:
        if self._pieces % _SAMPLE:
            return
        wall = self._wall / _SAMPLE
        self._wall = 0.0
        if wall > max(_DEAR_WAIT, self._cached_wall):
            self._not_before = time.monotonic() + _PAUSE
            self._begin(direct=False)
        elif self._pieces >= self._turn:
            self._turn = min(2 * self._turn, _MOST_TURN)
            self._begin(direct=False)

    def impossible(self) -> None:
        """The file system refuses direct writes."""
        self._not_before = math.inf
        self._begin(direct=False)

    def _begin(self, direct: bool) -> None:
        self.now = direct
        self._pieces = 0
        self._cpu = self._wall = 0.0
