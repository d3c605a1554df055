"""What one volume has on this machine beside its processes: lock, private mount point, files."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable

import structlog

from csi_slayer.errors import MountFailed
from csi_slayer.fuse import mount as mounts
from csi_slayer.node import binding, leftover, registry
from csi_slayer.node.cgroups import Limits
from csi_slayer.node.lock import Busy, lock_volume
from csi_slayer.node.records import Places

log = structlog.get_logger(__name__)

LOCK_TIMEOUT = 5.0
"""Seconds for which a worker of an earlier node service may still have the volume's lock."""

_LOCK_POLL = 0.02


class Footprint:
    """Of the volume ``mount_id``. Methods that are no coroutines are to be called in a thread, but
    for :meth:`free_lock`."""

    def __init__(self, places: Places, limits: Limits, mount_id: str) -> None:
        self.id = mount_id
        self.private = places.mountpoint(mount_id)
        self.control = places.control(mount_id)
        self.lock = -1
        """Descriptor, once it is taken."""
        self._places = places
        self._limits = limits

    async def take_lock(self) -> None:
        """Be the only one to serve the volume. Raises MountFailed."""
        state = str(self._places.state(self.id))
        try:
            async with asyncio.timeout(LOCK_TIMEOUT):
                while True:
                    try:
                        self.lock = lock_volume(state)
                        return
                    except Busy:
                        await asyncio.sleep(_LOCK_POLL)
        except TimeoutError:
            raise MountFailed(
                "another process still serves the volume on this node: try again", "ABORTED"
            ) from None

    def free_lock(self) -> None:
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def register(self, url: str) -> None:
        """Have ``csi-slayer status`` find it, which is no reason not to serve it."""
        entry = registry.Mounted(
            volume=self.id,
            url=url,
            mountpoint=self.private,
            supervisor=os.getpid(),
            control=self.control,
            state=str(self._places.state(self.id)),
            cache=str(self._places.cache),
        )
        try:
            registry.write(entry)
        except OSError as error:
            log.warning("not_registered", volume=self.id, reason=error.strerror)

    def make_way(self) -> None:
        """An empty private mount point, whatever was there. Raises MountFailed."""
        # First: nobody may look at a directory where a dead mount is.
        self._clear()
        for path in (self.private, os.path.dirname(self.control)):
            os.makedirs(path, mode=0o700, exist_ok=True)

    def remove(self, targets: Iterable[str], connection: int | None) -> None:
        """Take everything away, but for what is still to be uploaded. No error.

        ``targets`` still show the volume if its connection was ended by somebody else.
        """
        try:
            self._clear()
            for path in targets:
                if connection is not None and binding.shown(path, connection):
                    binding.unmount(path)
        except MountFailed as error:
            log.error("not_unmounted", error=str(error))
        registry.remove(self.id)
        self._limits.remove(self.id)
        state, staging = self._places.state(self.id), self._places.staging(self.id)
        if leftover.unsaved(state, staging) == 0:
            leftover.remove_state(self._places, self.id)
            self._places.forget(self.id)
        else:
            leftover.remove_places(self._places, self.id)

    def _clear(self) -> None:
        """End and unmount whatever is mounted in the private directory."""
        for _ in range(binding.LAYERS):
            entry = mounts.find(self.private)
            if entry is None:
                return
            log.warning("stale_mount", mountpoint=self.private)
            with contextlib.suppress(OSError):  # no fusectl: whoever uses the mount hangs
                mounts.abort(entry.connection)
            binding.unmount(self.private)
