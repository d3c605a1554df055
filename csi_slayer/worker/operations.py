"""What the worker's control socket can be asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest

from csi_slayer.errors import ConfigError, VolumeInUse
from csi_slayer.worker.control import Handler
from csi_slayer.worker.spec import LONGEST_DRAIN
from csi_slayer.worker.status import status
from csi_slayer.worker.warm import Warmer

if TYPE_CHECKING:
    from csi_slayer.worker.mount import Mount

Answers = AsyncIterator[dict[str, Any]]


def operations(mount: Mount) -> dict[str, Handler]:
    """The operations by name, for :class:`csi_slayer.worker.control.ControlServer`."""

    async def tell_status(_request: dict[str, Any]) -> Answers:
        yield await status(mount)

    async def metrics(_request: dict[str, Any]) -> Answers:
        """All metrics in Prometheus' text format."""
        text = await asyncio.to_thread(generate_latest, mount.metrics.registry)
        yield {"text": text.decode()}

    async def warm(request: dict[str, Any]) -> Answers:
        path = request.get("path", "")
        if not isinstance(path, str):
            raise ConfigError("path: expected a text")
        async for report in Warmer(mount.fs).run(path):
            yield {**report, "capacity": mount.cache.capacity}

    async def drain(request: dict[str, Any]) -> Answers:
        """Upload what is pending, with reports of how many keys are left."""
        seconds = request.get("seconds", 60.0)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_DRAIN:
            raise ConfigError(f"seconds: expected a number up to {LONGEST_DRAIN:.0f}")
        deadline = time.monotonic() + seconds
        left = await mount.fs.catalog.pending_count()
        while left and time.monotonic() < deadline:
            yield {"left": left}
            left = await mount.fs.drain(0.5)
        yield {"left": left}

    async def end(request: dict[str, Any]) -> Answers:
        """Once the volume is unmounted, end without waiting for uploads: what is left stays staged.
        While it is mounted only if the request says that it is ``unmounting``."""
        if mount.serving and request.get("unmounting") is not True:
            raise VolumeInUse("the volume is mounted: unmount it first")
        mount.hurry.set()
        yield {"left": await mount.fs.catalog.pending_count()}

    return {"end": end, "status": tell_status, "metrics": metrics, "warm": warm, "drain": drain}
