"""What publishing and unpublishing mean: which worker a target gets, and when one may end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import structlog

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import NodeConfig
from csi_slayer.errors import (
    ConfigError,
    MountFailed,
    SlayerError,
    VolumeBusy,
    VolumeConflict,
    VolumeInUse,
    VolumeNotFound,
)
from csi_slayer.fuse import mount as mounts
from csi_slayer.node.keeping import Held
from csi_slayer.node.records import Record, Target, public
from csi_slayer.node.requests import PublishRequest
from csi_slayer.node.turns import Turns
from csi_slayer.node.volume import Node, Volume
from csi_slayer.volumes.identity import may_follow

log = structlog.get_logger(__name__)


class Publishing:
    """The volumes of the node by mount id. Calls of one volume take turns (``turns``)."""

    def __init__(self, config: NodeConfig, node: Node, turns: Turns) -> None:
        self.volumes: dict[str, Volume] = {}
        self.orphans: set[str] = set()
        """Ids of state directories with uploads that nobody can do."""
        self.released: list[str] = []
        """Ids of volumes that are gone since somebody last emptied the list."""
        self.unfinished = 0
        """Unpublications that left uploads to the background."""
        self.restarts = 0
        """Restarts of workers of volumes that are gone."""
        self._config = config
        self._node = node
        self._turns = turns
        self._changing: set[str] = set()  # targets

    def of(self, volume_id: str) -> Iterator[Volume]:
        """One for each identity that uses the volume here."""
        return (v for v in list(self.volumes.values()) if v.record.volume_id == volume_id)

    def at(self, volume_id: str, path: str) -> Volume:
        """The volume that a target shows. Raises VolumeNotFound."""
        for volume in self.of(volume_id):
            if path in volume.record.targets:
                return volume
        raise VolumeNotFound("the volume is not published there on this node")

    def held(self, mount_id: str) -> Held | None:
        """For the keeper."""
        volume = self.volumes.get(mount_id)
        return None if volume is None else volume.describe()

    def check_caches(self, configured: Path) -> None:
        """Raises MountFailed for volumes that were mounted with another cache directory than the
        configured one, where that is not there: nobody can serve them."""
        for directory in {v.config.cache.directory for v in list(self.volumes.values())}:
            if directory != configured and not directory.exists():
                raise MountFailed(
                    f"volumes in use have their cache in {directory}, which is not there: requests"
                    " to them wait until the cache directory is set back; change it when no volume"
                    " is in use"
                )

    async def publish(self, request: PublishRequest, path: str) -> None:
        """Raises ConfigError, VolumeBusy, VolumeConflict, VolumeInUse, MountFailed."""
        with self._alone_at(path):
            await self._publish(request, path)

    async def _publish(self, request: PublishRequest, path: str) -> None:
        wanted = Target(_options(request), request.pod, request.exclusive)
        self._check_exclusive(request, path)
        volume = self._holder(request, path, wanted) or self._shared(request)
        if volume is None or volume.finishing:
            volume = await self._mount(request, volume)
        else:
            timeout = self._config.start_timeout
            await volume.renew(request.config, timeout, request.identity)
        try:
            await volume.bind(path, wanted)
        except BaseException:
            if volume.finishing:
                await self._finish(volume, volume.record.copy())
            raise

    async def unpublish(self, volume_id: str, path: str) -> None:
        """Raises ConfigError, VolumeBusy, MountFailed."""
        with self._alone_at(path):
            await self._unpublish(volume_id, path)

    async def _unpublish(self, volume_id: str, path: str) -> None:
        volume = next((v for v in self.of(volume_id) if path in v.record.targets), None)
        if volume is None:
            if any(path in other.record.targets for other in self.volumes.values()):
                log.warning("not_published_there", volume=volume_id, target=path)
                return  # another volume is, and stays
            await asyncio.to_thread(self._node.binder.clear, path)
            await self._remove(path, None)
            for unfinished in self.of(volume_id):
                if unfinished.finishing and not unfinished.unmounted:
                    # An earlier call has failed in between.
                    await self._finish(unfinished, unfinished.record.copy())
            return
        last = volume.record.copy()
        await volume.unbind(path)
        try:
            await self._remove(path, last)
        finally:
            # Whatever is in that directory: the volume is not shown there any more.
            if not volume.record.targets:
                await self._finish(volume, last)

    @contextlib.contextmanager
    def _alone_at(self, path: str) -> Iterator[None]:
        """Calls of one volume take turns, those of two may be about one target. Raises
        VolumeBusy."""
        if path in self._changing:
            raise VolumeBusy(f"another volume is on its way to or from {path}: try again")
        self._changing.add(path)
        try:
            yield
        finally:
            self._changing.discard(path)

    async def _remove(self, path: str, last: Record | None) -> None:
        """Remove the directory of a target that shows nothing any more. One that has content of
        its own, or a file in its place, stays: whoever has written it did so while nothing was
        mounted there, and it is nowhere else. ``last``: of the volume, to tell its pods."""
        if await asyncio.to_thread(self._node.binder.remove, path):
            return
        log.warning("target_not_empty", target=path, meaning="it stays, and is in no volume")
        if last is not None:
            self._node.events.warn(
                last,
                "TargetNotEmpty",
                f"the volume is unpublished, but {path} on the node has content that was written"
                " while nothing was mounted there: it is in no volume; move it away",
            )

    async def expand(self, volume_id: str, path: str, capacity: int) -> None:
        """A volume that may hold as much stays as it is. Raises VolumeNotFound, MountFailed."""
        volume = self.at(volume_id, path)
        wanted = volume.config.volume
        if wanted.quota is None or capacity <= wanted.quota:
            return
        wanted = wanted.model_copy(update={"quota": capacity})
        config = volume.config.model_copy(update={"volume": wanted})
        await volume.renew(config, self._config.start_timeout)

    async def adopt(self, record: Record, config: MountConfig, held: Held) -> None:
        """Go on with what was held. Raises MountFailed if somebody else has the volume."""
        volume = Volume(self._node, record, config, self._on_gone)
        session = held.state["session"]
        await volume.resume(session, held.fuse_fd, held.state["restarts"])
        self.volumes[volume.id] = volume
        if not record.targets and not session.get("unmounted"):
            # Published to its end, or unpublished to its beginning.
            self._turns.begin(record.volume_id, self._finish(volume, record.copy()))

    def _check_exclusive(self, request: PublishRequest, path: str) -> None:
        """Raises VolumeInUse where one pod alone has the volume, or wants it so."""
        for volume in self.of(request.volume_id):
            for other, target in sorted(volume.record.targets.items()):
                if other != path and (request.exclusive or target.exclusive):
                    raise VolumeInUse(
                        "the volume may be used by one pod at a time, and is published at "
                        f"{other}: unpublish it there first"
                    )

    def _shared(self, request: PublishRequest) -> Volume | None:
        """The worker that other targets of the same volume and identity have. Raises
        VolumeConflict."""
        volume = self.volumes.get(request.mount_id)
        if volume is None:
            return None
        if volume.record.volume_id != request.volume_id:
            raise VolumeConflict(f"{volume.record.volume_id} has the same short name on this node")
        if not volume.finishing and volume.record.identity != request.identity:
            # Its keys were rotated: those of the request would come back under the other targets.
            raise VolumeConflict(
                "the volume is in use on this node with newer keys of the same secret: publish it"
                " with those"
            )
        return volume

    def _holder(self, request: PublishRequest, path: str, wanted: Target) -> Volume | None:
        """Whose target it is already. Raises VolumeConflict."""
        for volume in self.volumes.values():
            found = volume.record.targets.get(path)
            if found is None:
                continue
            if volume.record.volume_id != request.volume_id:
                raise VolumeConflict(f"{path} has volume {volume.record.volume_id}")
            read_only = request.config.volume.read_only
            if (
                found.options != wanted.options
                or volume.config.volume.read_only != read_only
                or found.exclusive not in (None, wanted.exclusive)
            ):
                raise VolumeConflict(
                    "the volume is published there already, with other mount options or access:"
                    " unpublish it first"
                )
            if not may_follow(volume.record.identity, request.identity):
                raise VolumeConflict(
                    "the volume is published there already, with another identity: unpublish it"
                    " first"
                )
            return volume
        return None

    async def _mount(self, request: PublishRequest, finishing: Volume | None) -> Volume:
        """A new worker. One that is still uploading for the same volume is stopped: the new one
        does its work as well. If that cannot be mounted it goes on."""
        if finishing is not None:
            await finishing.stop()
            if self.volumes.get(finishing.id) is finishing:  # else it was gone, and counted
                self.restarts += finishing.restarts
        record = Record(
            mount_id=request.mount_id,
            volume_id=request.volume_id,
            identity=request.identity,
            config=public(request.config),
            labels=dict(request.labels),
        )
        volume = self.volumes[record.mount_id] = Volume(
            self._node, record, request.config, self._on_gone
        )
        try:
            await volume.mount(self._config.start_timeout)
        except BaseException:
            await volume.discard()
            self.volumes.pop(volume.id, None)
            if finishing is not None:
                await self._finish_again(finishing)
            raise
        self.orphans.discard(volume.id)
        return volume

    async def _finish_again(self, stopped: Volume) -> None:
        volume = Volume(self._node, stopped.record, stopped.config, self._on_gone)
        try:
            await volume.resume({"unmounted": True}, None, 0)
        except SlayerError as error:
            log.error("cannot_finish", volume=volume.record.volume_id, error=str(error))
            return
        self.volumes[volume.id] = volume
        await volume.save()

    async def _finish(self, volume: Volume, last: Record) -> None:
        if not await volume.finish(self._config.flush_timeout, last):
            self.unfinished += 1

    def _on_gone(self, volume: Volume) -> None:
        if self.volumes.get(volume.id) is volume:
            del self.volumes[volume.id]
        self.restarts += volume.restarts
        self.released.append(volume.record.volume_id)


def _options(request: PublishRequest) -> tuple[str, ...]:
    """Options of the bind mount. Raises ConfigError for one that there is not."""
    options = set(request.flags) - {"rw"} | ({"ro"} if request.read_only else set())
    for name in options - mounts.BIND_FLAGS.keys():
        known = ", ".join(sorted(mounts.BIND_FLAGS))
        raise ConfigError(f"mount option {name!r}: expected one of {known}")
    return tuple(sorted(options))
