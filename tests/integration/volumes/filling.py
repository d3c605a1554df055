"""Many objects at once."""

from __future__ import annotations

import asyncio

from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.identity import driver_identity
from csi_slayer.volumes.places import Access, Service
from csi_slayer.volumes.stores import StorePool


async def many(config: DriverConfig, bucket: str, prefix: str, count: int) -> None:
    """That many small objects below a prefix."""
    pool = StorePool()
    access = Access(config, pool, Service(), await driver_identity(config.store))
    turns = asyncio.Semaphore(16)
    async with access.store(bucket, prefix) as store:

        async def one(number: int) -> None:
            async with turns:
                await store.put(f"d{number % 7}/{number:05}", b"x")

        await asyncio.gather(*map(one, range(count)))
    await pool.close()
