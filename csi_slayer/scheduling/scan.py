"""Notice that somebody walks a directory and opens its small files one after another."""

from __future__ import annotations

from collections import OrderedDict

WATCHED = 256
"""Directories remembered at once."""

START = 8
MAXIMUM = 64

_NEVER = (-2 * MAXIMUM, 0, 0)


class Scan:
    """Per directory: the last file opened and how many files ahead to fetch.

    Files go by their places, which follow the order in which the directory is read: so a walker's
    opens come with growing numbers close to each other.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[int, tuple[int, int, int]] = OrderedDict()

    def opened(self, parent: int, place: int) -> tuple[int, int]:
        """A file was opened: (place after which to fetch ahead, how many files); count 0: none."""
        last, width, fetched = self._seen.pop(parent, _NEVER)
        if last < place <= last + 2 * MAXIMUM:
            width = min(MAXIMUM, width * 2 if width else START)
        else:
            width = fetched = 0
        start = max(place, fetched)
        # Fetch in batches: only when half of what was fetched ahead has been used.
        count = width - (start - place) if width and start - place <= width // 2 else 0
        if count:
            fetched = start + count
        self._remember(parent, (place, width, fetched))
        return start, count

    def _remember(self, parent: int, state: tuple[int, int, int]) -> None:
        self._seen[parent] = state
        if len(self._seen) > WATCHED:
            self._seen.popitem(last=False)

    def listed(self, parent: int, place: int) -> None:
        """The names of a directory are being read, the first is at ``place``: if that, or one near
        it, is opened next, it is a walk from the first file on."""
        if parent not in self._seen:
            self._remember(parent, (place - 1, START, 0))

    def reached(self, parent: int, place: int) -> None:
        """Files up to ``place`` have been asked for (there may be gaps)."""
        if parent in self._seen:
            last, width, fetched = self._seen[parent]
            self._seen[parent] = (last, width, max(fetched, place))
