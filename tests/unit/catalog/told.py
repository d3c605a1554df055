"""What a sweep tells, all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from csi_slayer.catalog import Gone


def told(gone: AsyncIterator[Gone]) -> list[Gone]:
    async def collect() -> list[Gone]:
        return [one async for one in gone]

    return asyncio.run(collect())
