"""The volumes that are published on this node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import Iterable

import structlog
from prometheus_client.metrics_core import Metric

from csi_slayer.cache import Cache, Governor
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import ConfigError, MountFailed, VolumeNotFound
from csi_slayer.node.binding import Binder, shown
from csi_slayer.node.cgroups import Limits
from csi_slayer.node.events import Events
from csi_slayer.node.health import Health
from csi_slayer.node.keeping import Keeping
from csi_slayer.node.launcher import Launcher
from csi_slayer.node.metrics import Counts, families, of_cache, of_workers
from csi_slayer.node.publishing import Publishing
from csi_slayer.node.records import Places, Record
from csi_slayer.node.recovery import Recovered, Recovery
from csi_slayer.node.requests import PublishRequest, VolumeStats
from csi_slayer.node.turns import Turns
from csi_slayer.node.volume import Node

log = structlog.get_logger(__name__)

_PR_SET_CHILD_SUBREAPER = 36

COLLECT_TIMEOUT = 10.0
"""Seconds for one scrape."""


class NodeVolumes:
    """Publishes and unpublishes. Calls may overlap: those of one volume wait for each other, and
    one that its caller gives up is done to its end all the same."""

    def __init__(self, config: DriverConfig) -> None:
        self._config = config
        self._binder = Binder(config.node.kubelet_directory, config.own_directories)
        self._launcher = Launcher()
        self._keeping = Keeping(
            config.node.keeper_socket,
            lambda: self._publishing.volumes,
            lambda name: self._publishing.held(name),
        )
        self._limits = Limits(config.node.worker_memory, config.node.worker_cpus)
        self._events = Events(config.node.name, enabled=config.node.events)
        self._places = Places.of(config)
        self._turns = Turns()
        node = Node(
            self._places,
            self._binder,
            self._launcher,
            self._keeping,
            self._limits,
            self._events,
        )
        self._publishing = Publishing(config.node, node, self._turns)
        self._health = Health(lambda: [*self._publishing.volumes.values()], self._events)
        self._counts = Counts()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._cache: Cache | None = None
        self._governor: Governor | None = None

    async def start(self) -> None:
        """Take over what an earlier node service has left, and be ready to publish.

        Raises CacheError where the cache directory cannot be used, OSError for the run directory.
        """
        # Workers whose template has died are ours to wait for.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._prepare)
        self._events.start()
        recovered, _ = await asyncio.gather(self._recover(), self._launcher.start())
        self._publishing.orphans = recovered.orphans
        for record in recovered.lost:
            self._events.warn(
                record,
                "MountLost",
                "the volume's mount did not survive a restart of the driver on this node: restart"
                " the pod to have it mounted anew; what was written is not lost",
            )

        self._health.start()

    async def close(self) -> None:
        """End the workers and leave their mounts to the keeper."""
        await self._health.close()
        await self._turns.close()
        volumes = list(self._publishing.volumes.values())
        await asyncio.gather(*(volume.stop() for volume in volumes))
        await self._launcher.close()
        await self._keeping.close()
        await self._events.close()
        await asyncio.to_thread(self._close_cache)

    # -- the kubelet's calls --------------------------------------------------------------------

    async def publish(self, request: PublishRequest) -> None:
        """Show a volume at a target; again: renew its credentials and what can change online.

        Raises ConfigError, VolumeConflict, VolumeInUse, MountFailed.
        """
        target = self._binder.real(request.target)
        began, result = time.monotonic(), "error"
        try:
            await self._turns.do(request.volume_id, self._publishing.publish(request, target))
            result = "ok"
        finally:
            self._counts.published[result].observe(time.monotonic() - began)

    async def unpublish(self, volume_id: str, target: str) -> list[str]:
        """Show it there no more; after the last target, upload what is pending for at most
        ``node.flush_timeout``; what is left then is uploaded in the background.

        Returns ids of volumes, this one or earlier ones, that are gone from this node by now, with
        all that was pending. Raises ConfigError, MountFailed.
        """
        real = self._binder.real(target)
        await self._turns.do(volume_id, self._publishing.unpublish(volume_id, real))
        released = self._publishing.released.copy()
        self._publishing.released.clear()
        return [gone for gone in released if not any(self._publishing.of(gone))]

    async def stats(self, volume_id: str, path: str) -> VolumeStats:
        """How full the volume is, as of when its worker last answered, and how it is. Raises
        VolumeNotFound."""
        volume = self._publishing.at(volume_id, self._real(path))
        condition = await self._health.look(volume)
        return VolumeStats(
            used_bytes=int(volume.last_status.get("used_bytes", 0)),
            capacity_bytes=volume.config.volume.quota,
            used_inodes=int(volume.last_status.get("inodes", 0)),
            condition=condition,
        )

    async def expand(self, volume_id: str, path: str, capacity: int) -> None:
        """Let the volume hold at least this many bytes, where it has a limit at all. Raises
        VolumeNotFound, MountFailed."""
        work = self._publishing.expand(volume_id, self._real(path), capacity)
        await self._turns.do(volume_id, work)

    def has(self, volume_id: str) -> bool:
        """Whether anything of it is on this node: a mount, or uploads under way."""
        return any(self._publishing.of(volume_id))

    def record(self, volume_id: str) -> Record | None:
        """What is known of it here and now, with the pods that have it."""
        volume = next(self._publishing.of(volume_id), None)
        return None if volume is None else volume.record.copy()

    def warn(self, record: Record, reason: str, message: str) -> None:
        """An event about a volume."""
        self._events.warn(record, reason, message)

    def published(self, volume_id: str) -> bool:
        return any(volume.record.targets for volume in self._publishing.of(volume_id))

    async def shows(self, volume_id: str, target: str) -> bool:
        """Whether the volume is to be seen at the target, as an earlier publication has left it."""
        try:
            real = self._binder.real(target)
            connection = self._publishing.at(volume_id, real).record.connection
        except (ConfigError, VolumeNotFound):
            return False
        return connection is not None and await asyncio.to_thread(shown, real, connection)

    # -- how the node is ------------------------------------------------------------------------

    async def probe(self) -> None:
        """Raises MountFailed where no volume could be mounted now; a lost template is replaced."""
        await self._launcher.start()
        try:
            os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise MountFailed(
                f"/dev/fuse cannot be opened ({error.strerror}): load the kernel module fuse, and"
                " run the node service as root in a privileged container"
            ) from error
        await asyncio.to_thread(self._publishing.check_caches, self._config.cache.directory)

    def collect(self) -> list[Metric]:
        """All metrics of the node and of its workers. For a prometheus registry: to be called from
        a thread that is not the event loop's."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._metrics(), self._loop).result(COLLECT_TIMEOUT)

    async def _metrics(self) -> list[Metric]:
        own = families(
            self._publishing,
            self._counts,
            keeper=self._keeping.connected,
            limited=self._limits.active,
            templates=self._launcher.templates,
            events_dropped=self._events.dropped,
            hung=self._health.hung,
        )
        controls = [volume.control for volume in self._publishing.volumes.values()]
        return [*own, *self._cache_metrics(), *await of_workers(controls)]

    def _cache_metrics(self) -> Iterable[Metric]:
        if self._cache is None:
            return ()
        evicted = self._cache.events.evicted_bytes.value
        return of_cache(self._cache.usage(), self._config.cache.min_free, evicted)

    # -- inside ---------------------------------------------------------------------------------

    async def _recover(self) -> Recovered:
        held = await self._keeping.start()
        recovery = Recovery(self._config, self._places, self._publishing.adopt)
        recovered = await recovery.run(held)
        for name in recovered.dead - set(self._publishing.volumes):
            await self._keeping.drop(name)
        return recovered

    def _prepare(self) -> None:
        self._places.make()
        self._limits.prepare()
        cache = self._config.cache
        self._cache = Cache(cache.directory, cache.capacity, min_free=cache.min_free)
        self._governor = Governor(self._cache)
        self._governor.start()

    def _close_cache(self) -> None:
        if self._governor is not None:
            self._governor.close()
        if self._cache is not None:
            self._cache.close()

    def _real(self, path: str) -> str:
        """A path that may be any; one that cannot be a target is none."""
        try:
            return self._binder.real(path)
        except ConfigError:
            return path
