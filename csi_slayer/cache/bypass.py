"""What is read past the cache, because it has no room or its disk fails."""

from __future__ import annotations

import threading
import time
from typing import Final

from csi_slayer.cache.events import CacheEvents
from csi_slayer.errors import CacheError, CacheFull
from csi_slayer.observability.logging import get_logger

log = get_logger(__name__)

PAUSE: Final = 60.0
"""Seconds between two lines about a cache that fails: each read of each file may notice it."""


class Bypass:
    """Counts, and tells of failures; of one process. Thread-safe."""

    def __init__(self, events: CacheEvents) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._quiet_until = 0.0

    def note(self, error: CacheError) -> None:
        """Bytes are handed on without being kept, for this reason."""
        self._events.bypassed.add()
        if isinstance(error, CacheFull):
            return
        with self._lock:
            now = time.monotonic()
            if now < self._quiet_until:
                return
            self._quiet_until = now + PAUSE
        log.error("the cache fails, data is handed on without being kept", error=str(error))
