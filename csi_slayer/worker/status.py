"""What ``csi-slayer status`` shows of one volume."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from csi_slayer.worker.mount import Mount

ERRORS_SHOWN = 20


async def oldest_pending(mount: Mount) -> float | None:
    """Seconds since the change that has waited longest for its upload; None if none waits."""
    since = await mount.fs.catalog.pending_oldest()
    return None if since is None else max(0.0, time.time() - since / 1e9)


async def status(mount: Mount) -> dict[str, Any]:
    """A JSON-able description; sizes in bytes, times in seconds. No secrets.

    ``oldest_pending``: age of the oldest change that waits for its upload. ``conflicts``: files
    that are kept because somebody else had changed the object, until a person removes them.
    ``store``: see :class:`csi_slayer.worker.events.StoreHealth`.
    """
    config, fs = mount.config, mount.fs
    usage = mount.cache.usage()
    store = mount.events.store
    return {
        "volume": mount.spec.volume,
        "labels": mount.spec.labels,
        "url": config.store.url,
        "mountpoint": mount.spec.mountpoint,
        "pid": os.getpid(),
        "uptime": round(time.time() - mount.started, 1),
        "restarts": mount.restarts,
        "read_only": config.volume.read_only,
        "durability": config.volume.durability.value,
        "capabilities": list(mount.session.state.capabilities) if mount.session is not None else [],
        "open_files": len(fs.handles),
        "inodes": await fs.catalog.count(),
        "used_bytes": fs.catalog.used_bytes,
        "quota": config.volume.quota,
        "dirty_bytes": await asyncio.to_thread(fs.content.staging.usage),
        "pending_uploads": await fs.catalog.pending_count(),
        "oldest_pending": await oldest_pending(mount),
        "conflicts": len(await asyncio.to_thread(fs.content.conflicts.list)),
        "store": {
            "answers": store.answers,
            "last_success": store.last_success,
            "last_failure": store.last_failure,
            "last_error": store.last_error,
        },
        "failing": [
            {"key": key, "attempts": attempts, "error": error}
            for key, attempts, error in await fs.catalog.failing(ERRORS_SHOWN)
        ],
        "cache": {
            "directory": str(config.cache.directory),
            "bytes": usage.used,
            "capacity": usage.capacity,
            "segments": usage.segments,
        },
        "counters": mount.metrics.snapshot(),
    }
