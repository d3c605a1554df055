"""One node service for each run directory: a second one would take the first for a dead one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from csi_slayer.errors import ConfigError
from csi_slayer.node.lock import Busy, lock_volume
from csi_slayer.observability import get_logger

log = get_logger(__name__)

PREDECESSOR_TIMEOUT: Final = 15.0
"""Seconds for which a node service waits for the end of the one before it."""

_POLL: Final = 0.05


@asynccontextmanager
async def sole(directory: Path, timeout: float = PREDECESSOR_TIMEOUT) -> AsyncIterator[None]:
    """Be the only one inside the block that works in the directory: before it looks at, ends or
    unmounts anything. Raises ConfigError where another process does not end."""
    fd = await _take(directory, timeout)
    try:
        yield
    finally:
        os.close(fd)


async def _take(directory: Path, timeout: float) -> int:
    waited = False
    try:
        async with asyncio.timeout(timeout):
            while True:
                try:
                    return lock_volume(str(directory))
                except Busy:
                    if not waited:
                        waited = True
                        log.info("waiting_for_predecessor", directory=str(directory))
                    await asyncio.sleep(_POLL)
    except TimeoutError:
        raise ConfigError(
            f"{directory} is in use by another node service: end that one, or give this one a"
            " node.run_directory of its own"
        ) from None
    except OSError as error:
        raise ConfigError(f"node.run_directory: {directory}: {error.strerror}") from error
