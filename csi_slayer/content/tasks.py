"""Running coroutines side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def together(coroutines: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first failure cancels the others, waits for their end and is raised as it is
    (a TaskGroup would wrap it)."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
