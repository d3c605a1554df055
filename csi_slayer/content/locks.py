"""A lock for each of many things."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Locks(Generic[K]):
    """A lock for each key, for as long as somebody holds it or waits for it.

    Users are counted: a lock that is free may have been passed on just now, to somebody whose task
    has not run yet, and whoever came then with a new lock would be inside at the same time.
    """

    def __init__(self) -> None:
        self._locks: dict[K, tuple[asyncio.Lock, int]] = {}

    def __contains__(self, key: object) -> bool:
        """Whether somebody holds the lock of a key, or waits for it."""
        return key in self._locks

    @contextmanager
    def of(self, key: K) -> Iterator[asyncio.Lock]:
        """The lock of a key; the block takes it."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = lock, users + 1
        try:
            yield lock
        finally:
            _lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = lock, users - 1
