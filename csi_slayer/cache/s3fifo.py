"""Which segment to evict next: S3-FIFO, over bytes.

Three queues (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023). What is
new enters the *small* queue, a tenth of the bytes; what has been opened again by the time it gets
to that queue's end moves to the *main* queue, the rest is evicted, so that a scan through many
files does not push out what is used. The main queue is a clock: what was opened since it was last
looked at goes round once more. The *ghost* queue remembers what the small one evicted; if such a
thing comes back, it enters the main queue at once.

Segments are 128-bit numbers here, and sizes count in pages: a number of that kind takes a third of
the memory of a string and a tuple, and there may be 131,072.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

GetMark = Callable[[int], int]
SetMark = Callable[[int, int], None]

SMALL_SHARE = 10
"""The small queue's part of all bytes: one in this many."""

MOVES_ON = 2
"""Openings that take a segment from the small to the main queue. The first one is that of the
reader for whom it was fetched."""


class S3Fifo:
    """The queues. The two functions read and change how often a segment was opened lately."""

    def __init__(self, get_mark: GetMark, set_mark: SetMark) -> None:
        self._get = get_mark
        self._set = set_mark
        self._pages: dict[int, int] = {}
        self._small: deque[int] = deque()
        self._main: deque[int] = deque()
        self._ghost: deque[int] = deque()
        self._ghosts: set[int] = set()
        self._small_pages = 0
        self._main_pages = 0

    def __len__(self) -> int:
        return len(self._pages)

    def __contains__(self, key: object) -> bool:
        return key in self._pages

    def admit(self, key: int, pages: int) -> None:
        """A segment that is not known yet; in order of birth."""
        self._pages[key] = pages
        if key in self._ghosts:
            self._ghosts.discard(key)
            self._main.append(key)
            self._main_pages += pages
        else:
            self._small.append(key)
            self._small_pages += pages

    def put_back(self, keys: Iterable[tuple[int, int]]) -> None:
        """(key, pages) of victims that could not be evicted because they are in use."""
        for key, pages in keys:
            self._pages[key] = pages
            self._main.append(key)
            self._main_pages += pages

    def pop(self) -> tuple[int, int] | None:
        """The next victim and its size, no longer in any queue; None if all are empty."""
        # Each turn evicts, moves on or lowers a mark; marks that rise meanwhile end the patience.
        patience = 4 * len(self._pages) + 1
        while self._pages:
            patience -= 1
            total = self._small_pages + self._main_pages
            if self._small and (self._small_pages * SMALL_SHARE >= total or not self._main):
                key = self._small.popleft()
                pages = self._pages[key]
                self._small_pages -= pages
                if self._get(key) < MOVES_ON or patience < 0:
                    del self._pages[key]
                    self._remember(key)
                    return key, pages
                self._set(key, 0)
            else:
                key = self._main.popleft()
                pages = self._pages[key]
                self._main_pages -= pages
                mark = self._get(key)
                if mark == 0 or patience < 0:
                    del self._pages[key]
                    return key, pages
                self._set(key, mark - 1)
            self._main.append(key)
            self._main_pages += pages
        return None

    def _remember(self, key: int) -> None:
        if key not in self._ghosts:
            self._ghosts.add(key)
            self._ghost.append(key)
        # As many as the main queue has entries; those that came back are forgotten in passing.
        while len(self._ghost) > max(64, len(self._main)):
            self._ghosts.discard(self._ghost.popleft())
