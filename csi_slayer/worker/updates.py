"""Updates of a running worker by its supervisor, one after the other."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from csi_slayer.config import MountConfig
from csi_slayer.errors import ConfigError, SlayerError, VolumeInUse
from csi_slayer.observability.secrets import register_secrets
from csi_slayer.store.open import renew_credentials
from csi_slayer.worker.changes import Changes, compare
from csi_slayer.worker.channel import UNREAD
from csi_slayer.worker.link import Link
from csi_slayer.worker.mount import Mount
from csi_slayer.worker.spec import asked_at_open, live_options, store_options

log = structlog.get_logger(__name__)


async def apply(mount: Mount, new: MountConfig) -> tuple[str, ...]:
    """Have a mount go on with another configuration; returns the keys that wait for the next
    worker.

    Raises VolumeInUse, naming each key that cannot change, and what the store says to new
    credentials; then nothing has changed. What the kernel has been told stays: files that are open
    are closed by the policy and written within the quota they were opened under, and names and
    attributes are trusted for as long as they were when the kernel asked.
    """
    old = mount.config
    changes = compare(old, new)
    if changes == Changes():
        return ()  # the kubelet publishes the same again and again
    fixed = list(changes.fixed)
    if mount.session is not None and mount.session.state.zero_open:
        for key in asked_at_open(new):
            fixed.append(f"{key} (the kernel opens files by itself: zero_upcall)")
    if fixed:
        raise VolumeInUse(
            f"cannot change while the volume is mounted: {', '.join(fixed)}: end its pods on this "
            "node first"
        )
    if changes.credentials:
        register_secrets(new.secrets())
        await renew_credentials(mount.store, store_options(new, mount.events))
        register_secrets([*old.secrets(), *new.secrets()], only=True)
    had_quota = mount.live.quota is not None
    mount.live.set(live_options(new))
    mount.config = new
    if mount.live.quota is not None and not had_quota:
        mount.measuring.begin()
    if changes.credentials or changes.live:
        # What the old credentials were refused, or what rested under the old policy.
        mount.fs.content.reconciler.retry()
    log.info("updated", changed=[*changes.live, *changes.credentials], later=changes.later)
    return changes.later


class Updates:
    """Answers ``{"update": {"id": n, "config": text}}``; see :mod:`csi_slayer.worker.channel`."""

    def __init__(self, mount: Mount, link: Link) -> None:
        self._mount = mount
        self._link = link
        self._queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue(UNREAD)
        self._task = asyncio.create_task(self._run())
        link.listen(self._received)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _received(self, message: dict[str, Any]) -> None:
        update = message.get("update")
        if not isinstance(update, dict):
            log.warning("unknown message from the supervisor", keys=sorted(message))
            return
        number, config = update.get("id"), update.get("config")
        if not isinstance(number, int) or not isinstance(config, str):
            log.warning("malformed update from the supervisor")
            return
        try:
            self._queue.put_nowait((number, config))
        except asyncio.QueueFull:
            self._failed(number, SlayerError(f"{UNREAD} updates are waiting already"))

    async def _run(self) -> None:
        while True:
            number, text = await self._queue.get()
            try:
                later = await apply(self._mount, self._parse(text))
            except SlayerError as error:
                log.warning("update refused", error=str(error))
                self._failed(number, error)
            except Exception as error:
                log.error("update failed", error=str(error), exc_info=error)
                self._failed(number, SlayerError("the update failed: see the worker's log"))
            else:
                self._link.say({"updated": number, "later": list(later)})

    @staticmethod
    def _parse(text: str) -> MountConfig:
        try:
            return MountConfig.from_spec(text.encode())
        except ConfigError as error:
            raise ConfigError(f"the new configuration: {error}") from None

    def _failed(self, number: int, error: SlayerError) -> None:
        self._link.say({"update_failed": number, "error": str(error), "code": error.grpc_code})
