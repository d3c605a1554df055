"""What one mount does every now and then, whatever is asked of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from csi_slayer.observability import get_logger
from csi_slayer.observability.complaints import Complaints
from csi_slayer.worker.status import oldest_pending

if TYPE_CHECKING:
    from csi_slayer.worker.mount import Mount

log = get_logger(__name__)

PERIOD = 2.0
"""Seconds between updates of the gauges."""


class Housekeeping:
    """Keeps the gauges true, the catalog's journal short and the control socket served, for as
    long as the worker lives."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._complaints = Complaints(log)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            # Each for itself: a journal that cannot be folded back is no reason for old gauges.
            for work in (self._checkpoint, self._measure, self._mount.control.look_after):
                try:
                    await work()
                except Exception as error:
                    self._complaints.failed(work, "housekeeping failed", error, work=work.__name__)
                else:
                    self._complaints.over(work)

    async def _checkpoint(self) -> None:
        catalog = self._mount.fs.catalog
        await asyncio.to_thread(catalog.checkpoint)
        catalog.reset_journal()

    async def _measure(self) -> None:
        mount = self._mount
        metrics, events, fs = mount.metrics, mount.cache.events, mount.fs
        usage = mount.cache.usage()
        metrics.cache_bytes.set(usage.used)
        metrics.dirty_bytes.set(await asyncio.to_thread(fs.content.staging.usage))
        metrics.pending_uploads.set(await fs.catalog.pending_count())
        metrics.oldest_pending_seconds.set(int(await oldest_pending(mount) or 0))
        metrics.store_answers.set(int(mount.events.store.answers))
        corrupt = events.corrupt_blocks.value + events.corrupt_segments.value
        metrics.cache_corrupt_blocks.add(corrupt - metrics.cache_corrupt_blocks.value)
        evicted = events.evicted_bytes.value
        metrics.cache_evicted_bytes.add(evicted - metrics.cache_evicted_bytes.value)
