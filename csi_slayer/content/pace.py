"""Whether the disk of the cache holds up who writes to it.

A write goes to the page cache and takes microseconds, until there are more dirty pages than the
kernel allows: then each call sleeps for tens of milliseconds, up to 200 (balance_dirty_pages), and
on the event loop everybody else would with it.
"""

from __future__ import annotations

import time

SLOW = 0.01
"""Seconds that a write takes at least which was held up, and not just preempted."""

REMEMBERED = 1.0
"""Seconds in which a second such write tells that the disk is slow, and for which writes are left
to threads then. One alone does not: the first new file in a part of an ext4 waits for the disk, for
10 ms, because a map of what is free there is read, and threads for the small files of a walk that
come next would take a quarter longer."""


class Pace:
    """May be told from any thread."""

    def __init__(self) -> None:
        self._noted = self._until = 0.0

    def took(self, seconds: float) -> None:
        """A write took so long."""
        if seconds >= SLOW:
            now = time.monotonic()
            if now - seconds < self._noted:  # it may itself have taken longer than that
                self._until = now + REMEMBERED
            self._noted = now + REMEMBERED

    @property
    def is_slow(self) -> bool:
        return self._until > 0.0 and time.monotonic() < self._until


pace = Pace()
"""Of this process, which has one cache directory."""
