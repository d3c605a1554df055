"""What a sweep tells, all of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from csi_slayer.catalog import Gone


def told(gone: AsyncIterator[list[Gone]]) -> list[Gone]:
    async def collect() -> list[Gone]:
        return [one async for some in gone for one in some]

    return asyncio.run(collect())
