"""Telling a thread to end."""

from __future__ import annotations


class Stopped(Exception):
    """The work was told to end; nobody waits for its result."""


class StopFlag:
    """Set by one thread, checked by another between two pieces of work."""

    def __init__(self) -> None:
        self._set = False
        self.checks = 0
        """How often the work has looked, which is once for each piece of it."""

    def set(self) -> None:
        """End the work soon."""
        self._set = True

    def check(self) -> None:
        """Raises Stopped if the work is to end."""
        self.checks += 1
        if self._set:
            raise Stopped
