"""The store of a volume, for a command that asks it before anything is mounted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from csi_slayer.config import MountConfig
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.observe import NoObserver
from csi_slayer.store.open import open_store
from csi_slayer.worker.spec import store_options


@asynccontextmanager
async def reached(config: MountConfig) -> AsyncIterator[ObjectStore]:
    """The store, which has just answered; nothing is tried for longer than that takes. Raises
    SlayerError, within seconds, for one that does not."""
    options = store_options(config, NoObserver())
    url, options = config.store.url, replace(options, retry_deadline=options.check_deadline)
    store = await open_store(url, options)
    try:
        await store.check()
        yield store
    finally:
        await store.close()
