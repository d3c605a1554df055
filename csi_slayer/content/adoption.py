"""Staged copies that the store has become segments of the cache."""

from __future__ import annotations

import asyncio

import structlog

from csi_slayer.cache import SMALL, Cache, SegmentKey
from csi_slayer.errors import CacheError

log = structlog.get_logger(__name__)


class Adoption:
    """Of one volume. ``under_way`` are inodes whose copies no row of the catalog tells of any more:
    one that does not become a segment is to be removed all the same."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self.under_way: set[int] = set()

    async def adopt(
        self, ino: int, key: SegmentKey, path: str, size: int, fd: int | None = None
    ) -> bool:
        """As :meth:`csi_slayer.cache.Cache.adopt`, at once for a small one; False if the file is
        not kept, and stays staged."""
        self.under_way.add(ino)
        try:
            if size <= SMALL:
                self._cache.adopt(key, path, size, fd)
            else:
                await asyncio.to_thread(self._cache.adopt, key, path, size)
        except CacheError as error:
            log.info("staged file not kept in the cache", ino=ino, reason=str(error))
            return False
        finally:
            self.under_way.discard(ino)
        return True
