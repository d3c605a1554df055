"""One mount from start to end, inside its worker process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from csi_slayer.cache import Cache, Governor
from csi_slayer.catalog import Catalog, Defaults
from csi_slayer.config import MountConfig
from csi_slayer.content.content import Content
from csi_slayer.errors import ConfigError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse import pyfuse3_engine
from csi_slayer.fuse.init import Capabilities, SessionState
from csi_slayer.fuse.session import Session, SessionOptions
from csi_slayer.observability.metrics import Metrics
from csi_slayer.observability.serve import MetricsServer, serve_metrics
from csi_slayer.observability.tracing import make_tracer
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.open import open_store
from csi_slayer.vfs.filesystem import FileSystem
from csi_slayer.worker import spec as specs
from csi_slayer.worker.control import ControlServer
from csi_slayer.worker.events import Events
from csi_slayer.worker.housekeeping import Housekeeping
from csi_slayer.worker.measure import Measuring
from csi_slayer.worker.operations import operations

if TYPE_CHECKING:
    from csi_slayer.fuse.pyfuse3_engine.session import Pyfuse3Session

log = structlog.get_logger(__name__)

DRAIN = 3600.0
"""Seconds for which an unmounted volume's worker goes on uploading what is pending. What is then
still pending stays staged, and the next mount of the volume uploads it."""


class Mount:
    """Opens everything, serves until the volume is unmounted, closes everything."""

    def __init__(self, spec: specs.WorkerSpec, config: MountConfig, restarts: int) -> None:
        self.spec = spec
        self.config = config
        self.restarts = restarts
        self.started = time.time()
        self.live = specs.live_options(config)
        self.measuring = Measuring(self.live, self._read_tree)
        self.metrics = Metrics(**{"volume": spec.volume, **spec.labels})
        self.events = Events(self.metrics)
        self.session: Session | Pyfuse3Session | None = None
        self.hurry = asyncio.Event()
        """Set: once unmounted, end without waiting for uploads."""
        self.serving = True
        """Whether the volume is mounted, or about to be."""
        self._stack = contextlib.AsyncExitStack()
        self.control = ControlServer(Path(spec.control), operations(self))
        self.fs: FileSystem
        self.cache: Cache
        self.store: ObjectStore
        self.tenant = ""

    async def open(self, *, new: bool, tenant: str | None) -> None:
        """Everything but the kernel. A ``new`` mount needs a store that answers; what was mounted
        before is served from what is here, whatever has become of store and credentials.
        ``tenant``: that of the mount which is taken over, None for the identity's own.

        Raises SlayerError with one clear line.
        """
        config, spec = self.config, self.spec
        self.events.tracer = tracer = make_tracer(config.tracing, volume=spec.volume)
        self._stack.push_async_callback(asyncio.to_thread, tracer.close)
        self.store = store = await open_store(
            config.store.url, replace(specs.store_options(config, self.events), lazy=not new)
        )
        self._stack.push_async_callback(store.close)
        if new:
            await store.check()
        # A worker that only uploads reads nothing that others have cached.
        self.tenant = tenant or store.identity or f"unmounted:{spec.volume}"
        self.cache = Cache(
            config.cache.directory,
            config.cache.capacity,
            min_free=config.cache.min_free,
            direct=config.cache.direct,
        )
        self._stack.callback(self.cache.close)
        if spec.governs:
            governor = Governor(self.cache)
            governor.start()
            self._stack.push_async_callback(asyncio.to_thread, governor.close)
        state = specs.state_directory(config, spec.volume)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = config.volume
        defaults = Defaults(wanted.uid, wanted.gid, wanted.file_mode, wanted.dir_mode)
        catalog = Catalog(state / "catalog.db", defaults, self.cache.check_names)
        self._stack.callback(catalog.close)
        options = specs.content_options(config, spec.volume, self.tenant, self.live)
        self.fs = FileSystem(
            catalog,
            lambda changed: Content(store, self.cache, catalog, options, self.events, changed),
            specs.vfs_options(config, self.live),
            self.events,
            state / "handles",
        )
        self._stack.push_async_callback(self.fs.close)

    def is_mounted(self) -> bool:
        """Whether a volume is mounted at the spec's mount point, served or not."""
        return mounts.is_mounted(self.spec.mountpoint)

    async def clear_away(self) -> None:
        """Unmount what a worker has left that died and whose connection nobody could keep."""
        left = mounts.find(self.spec.mountpoint)
        if left is not None and left.fstype == mounts.TYPE:
            log.error("the worker died and its mount with it: open files got errors; mounting anew")
            # A thread of the dead worker may still hold the connection (csi_slayer.node.remains).
            with contextlib.suppress(OSError):
                await asyncio.to_thread(mounts.abort, left.connection)
            await asyncio.to_thread(mounts.unmount, self.spec.mountpoint, lazy=True)

    async def finish(self) -> None:
        """Be ready for :meth:`serve` to upload what is pending, without any mount."""
        await self._serve_extras(taken_over=False)

    async def mount(self) -> Session | Pyfuse3Session:
        """A new mount at the spec's mount point."""
        options = SessionOptions(
            capabilities=Capabilities.without(self.config.fuse.disable),
            allow_other=self.config.fuse.allow_other,
            observer=self.events,
            tracer=self.events.tracer,
        )
        native = self.config.fuse.engine == "native"
        engine = Session.mount if native else pyfuse3_engine.mount
        try:
            self.session = await engine(
                self.spec.mountpoint, self.config.store.url, self.fs, options
            )
        except OSError as error:
            raise ConfigError(
                f"cannot mount at {self.spec.mountpoint}: {error.strerror} "
                "(csi-slayer doctor says what is missing)"
            ) from error
        try:
            await self._serve_extras(taken_over=False)
        except BaseException:
            await asyncio.to_thread(mounts.unmount, self.spec.mountpoint, lazy=True)
            raise
        return self.session

    async def resume(self, fd: int, state: dict[str, Any]) -> Session:
        """Take over the kernel connection of a worker that died."""
        self.session = session = Session.resume(
            fd,
            SessionState.from_json(state),
            self.fs,
            SessionOptions(observer=self.events, tracer=self.events.tracer),
        )
        await self._serve_extras(taken_over=True)
        return session

    async def _serve_extras(self, *, taken_over: bool) -> None:
        await self.fs.start(taken_over=taken_over)
        self._stack.push_async_callback(self.control.close)
        try:
            await self.control.start()
        except OSError as error:
            if not self.restarts:
                raise
            # Its directory is away: no reason to let programs wait. It is tried again.
            log.error("no control socket", error=str(error))
        if self.config.metrics.listen is not None:
            await self._serve_metrics(self.config.metrics.listen)
        keeper = asyncio.create_task(Housekeeping(self).run())
        self._stack.callback(keeper.cancel)
        self._stack.push_async_callback(self.measuring.close)
        if self.config.volume.quota is not None:
            self.measuring.begin()

    async def _serve_metrics(self, listen: str) -> None:
        try:
            server: MetricsServer = await serve_metrics(self.metrics.registry, listen)
        except ConfigError as error:
            if not self.restarts:
                raise
            # Somebody else took the port meanwhile: no reason to let programs wait.
            log.error("no metrics", error=str(error))
        else:
            self._stack.push_async_callback(server.close)

    async def _read_tree(self) -> None:
        await self.fs.refresh.ensure_tree(await self.fs.directory(1))

    async def serve(self) -> int:
        """Until the volume is unmounted; then upload what is pending. Returns how many keys are
        left to the next mount, when :data:`DRAIN` is over or somebody is in a hurry."""
        if self.session is not None:
            await self.session.run()
        self.serving = False
        await self.fs.let_go()
        left = await self.fs.catalog.pending_count()
        if left:
            log.info("unmounted, uploading what is pending", keys=left)
            left = await self._drain()
        if left:
            log.error("uploads left for the next mount", keys=left)
            await self.fs.content.durable.finish()
        return left

    async def _drain(self) -> int:
        drain = asyncio.create_task(self.fs.drain(DRAIN))
        hurry = asyncio.create_task(self.hurry.wait())
        try:
            await asyncio.wait((drain, hurry), return_when=asyncio.FIRST_COMPLETED)
            return drain.result() if drain.done() else await self.fs.catalog.pending_count()
        finally:
            drain.cancel()
            hurry.cancel()
            await asyncio.gather(drain, hurry, return_exceptions=True)

    async def close(self) -> None:
        if self.session is not None:
            await self.session.stop(grace=1.0)
            self.session.close()
        await self._stack.aclose()
