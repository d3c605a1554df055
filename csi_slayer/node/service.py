"""The volumes that are published on this node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import weakref
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import structlog

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import (
    ConfigError,
    MountFailed,
    SlayerError,
    VolumeConflict,
    VolumeInUse,
    VolumeNotFound,
)
from csi_slayer.fuse import mount as mounts
from csi_slayer.node.asking import ask
from csi_slayer.node.binding import Binder
from csi_slayer.node.keeping import Held, Keeping
from csi_slayer.node.launcher import Launcher
from csi_slayer.node.records import Places, Record, Target
from csi_slayer.node.recovery import Recovery
from csi_slayer.node.requests import Condition, PublishRequest, VolumeStats
from csi_slayer.node.volume import Node, Volume, public

log = structlog.get_logger(__name__)

_PR_SET_CHILD_SUBREAPER = 36

ASK_TIMEOUT = 5.0
"""Seconds that a worker may take to say how its volume is."""

Result = TypeVar("Result")


class NodeVolumes:
    """Publishes and unpublishes. Calls may overlap: those of one volume wait for each other, and
    one that its caller gives up is done to its end all the same."""

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._volumes: dict[str, Volume] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._calls: set[asyncio.Task[Any]] = set()
        self._released: list[str] = []
        self._orphans: set[str] = set()
        self._binder = Binder(Path(config.node.kubelet_directory))
        self._node = Node(
            Places.of(config),
            self._binder,
            Launcher(),
            Keeping(config.node.keeper_socket, lambda: self._volumes, self._describe),
        )

    async def start(self) -> None:
        """Take over what an earlier node service has left, and be ready to publish."""
        # Workers whose template has died are ours to wait for.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        await asyncio.to_thread(self._node.places.make)
        await self._node.launcher.start()
        held = await self._node.keeping.start()
        recovery = Recovery(self._config, self._node.places, self._binder, self._adopt)
        recovered = await recovery.run(held)
        self._orphans = recovered.orphans

    async def close(self) -> None:
        """End the workers and leave their mounts to the keeper."""
        for task in list(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await asyncio.gather(*(volume.stop() for volume in self._volumes.values()))
        await self._node.launcher.close()
        await self._node.keeping.close()

    # -- the kubelet's calls --------------------------------------------------------------------

    async def publish(self, request: PublishRequest) -> None:
        """Show a volume at a target; again: renew its credentials and what can change online.

        Raises ConfigError, VolumeConflict, VolumeInUse, MountFailed.
        """
        target = self._binder.real(request.target)
        await self._whole(request.volume_id, self._publish(request, target))

    async def unpublish(self, volume_id: str, target: str) -> list[str]:
        """Show it there no more; after the last target, upload what is pending for at most
        ``node.flush_timeout``; what is left then is uploaded in the background.

        Returns ids of volumes, this one or earlier ones, that are gone from this node by now, with
        all that was pending. Raises ConfigError, MountFailed.
        """
        real = self._binder.real(target)
        await self._whole(volume_id, self._unpublish(volume_id, real))
        released, self._released = self._released, []
        return released

    async def stats(self, volume_id: str, path: str) -> VolumeStats:
        """Raises VolumeNotFound, MountFailed if its worker does not answer."""
        volume = self._at(volume_id, path)
        status = await ask(volume.control, "status", timeout=ASK_TIMEOUT)
        return VolumeStats(
            used_bytes=int(status["used_bytes"]),
            capacity_bytes=status["quota"],
            used_inodes=int(status["inodes"]),
            condition=Condition(False, "the volume is well"),
        )

    async def expand(self, volume_id: str, path: str, capacity: int) -> None:
        """Let the volume hold this many bytes, where it has a limit at all. Raises VolumeNotFound,
        MountFailed."""
        volume = self._at(volume_id, path)
        wanted = volume.config.volume
        if wanted.quota is None or not capacity:
            return
        config = volume.config.model_copy(
            update={"volume": wanted.model_copy(update={"quota": capacity})}
        )
        await self._whole(volume_id, volume.renew(config, self._config.node.start_timeout))

    async def probe(self) -> None:
        """Raises MountFailed where no volume could be mounted now; a lost template is replaced."""
        await self._node.launcher.start()
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise MountFailed(
                f"/dev/fuse cannot be opened ({error.strerror}): load the kernel module fuse, and"
                " run the node service as root in a privileged container"
            ) from error

    def published(self, volume_id: str) -> bool:
        return any(volume.record.targets for volume in self._of(volume_id))

    async def _adopt(self, record: Record, config: MountConfig, held: Held) -> None:
        volume = Volume(self._node, record, config, self._on_gone)
        session = held.state["session"]
        await volume.resume(session, held.fuse_fd, held.state["restarts"])
        self._volumes[volume.id] = volume
        if not record.targets and not session.get("unmounted"):
            self._spawn(record.volume_id, volume.finish(self._config.node.flush_timeout))

    # -- inside ---------------------------------------------------------------------------------

    async def _publish(self, request: PublishRequest, path: str) -> None:
        wanted = Target(_options(request), request.pod)
        volume = self._holder(request, path, wanted)
        timeout = self._config.node.start_timeout
        if volume is None:
            volume = self._volumes.get(request.mount_id)
        if volume is None or volume.finishing:
            volume = await self._mount(request, volume)
        else:
            await volume.renew(request.config, timeout)
        await volume.bind(path, wanted)

    def _holder(self, request: PublishRequest, path: str, wanted: Target) -> Volume | None:
        """Whose target it is already. Raises VolumeConflict, VolumeInUse."""
        if request.exclusive:
            others = {other for volume in self._of(request.volume_id)
                      for other in volume.record.targets if other != path}  # fmt: skip
            if others:
                raise VolumeInUse(
                    "the volume may be used by one pod at a time, and is published at "
                    f"{sorted(others)[0]}: unpublish it there first"
                )
        for volume in self._volumes.values():
            found = volume.record.targets.get(path)
            if found is None:
                continue
            if volume.record.volume_id != request.volume_id:
                raise VolumeConflict(f"{path} has volume {volume.record.volume_id}")
            read_only = request.config.volume.read_only
            if found.options != wanted.options or volume.config.volume.read_only != read_only:
                raise VolumeConflict(
                    "the volume is published there already, with other mount options or access:"
                    " unpublish it first"
                )
            return volume
        return None

    async def _mount(self, request: PublishRequest, finishing: Volume | None) -> Volume:
        """A new worker. One that is still uploading for the same volume is stopped: the new one
        does its work as well. If that cannot be mounted it goes on."""
        if finishing is not None:
            await finishing.stop()
        record = Record(
            mount_id=request.mount_id,
            volume_id=request.volume_id,
            identity=request.identity,
            config=public(request.config),
            labels=dict(request.labels),
        )
        volume = Volume(self._node, record, request.config, self._on_gone)
        self._volumes[volume.id] = volume
        self._orphans.discard(volume.id)
        try:
            await volume.mount(self._config.node.start_timeout)
        except BaseException:
            await volume.discard()
            self._volumes.pop(volume.id, None)
            if finishing is not None:
                await self._finish_again(finishing)
            raise
        return volume

    async def _finish_again(self, stopped: Volume) -> None:
        volume = Volume(self._node, stopped.record, stopped.config, self._on_gone)
        try:
            await volume.resume({"unmounted": True}, None, 0)
        except SlayerError as error:
            log.error("cannot_finish", volume=volume.record.volume_id, error=str(error))
            return
        self._volumes[volume.id] = volume
        await volume.save()

    async def _unpublish(self, volume_id: str, path: str) -> None:
        volume = next((v for v in self._of(volume_id) if path in v.record.targets), None)
        if volume is None:
            await asyncio.to_thread(self._binder.remove, path)
            return
        await volume.unbind(path)
        if not volume.record.targets:
            await volume.finish(self._config.node.flush_timeout)

    def _on_gone(self, volume: Volume) -> None:
        if self._volumes.get(volume.id) is volume:
            del self._volumes[volume.id]
        self._released.append(volume.record.volume_id)

    def _of(self, volume_id: str) -> Iterator[Volume]:
        return (v for v in list(self._volumes.values()) if v.record.volume_id == volume_id)

    def _at(self, volume_id: str, path: str) -> Volume:
        try:
            real = self._binder.real(path)
        except ConfigError:
            real = path
        for volume in self._of(volume_id):
            if real in volume.record.targets:
                return volume
        raise VolumeNotFound("the volume is not published there on this node")

    def _describe(self, mount_id: str) -> Held | None:
        volume = self._volumes.get(mount_id)
        return None if volume is None else volume.describe()

    def _spawn(self, volume_id: str, work: Coroutine[Any, Any, Any]) -> None:
        self._calls.add(task := asyncio.create_task(self._whole(volume_id, work)))
        task.add_done_callback(self._done)

    async def _whole(self, volume_id: str, work: Coroutine[Any, Any, Result]) -> Result:
        """Do it when it is the volume's turn, to the end even if the caller goes away."""
        lock = self._locks.get(volume_id)
        if lock is None:
            lock = self._locks[volume_id] = asyncio.Lock()

        async def turn() -> Result:
            async with lock:
                return await work

        task = asyncio.create_task(turn())
        self._calls.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever called may have gone away


def _options(request: PublishRequest) -> tuple[str, ...]:
    """Options of the bind mount. Raises ConfigError for one that there is not."""
    options = set(request.flags) | ({"ro"} if request.read_only else set())
    for name in options - mounts.BIND_FLAGS.keys():
        if name != "rw":
            raise ConfigError(
                f"mount option {name!r}: expected one of {', '.join(mounts.BIND_FLAGS)}"
            )
    return tuple(sorted(options - {"rw"}))
