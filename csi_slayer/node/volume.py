"""One volume of one identity on this node: its worker, its private mount and where it is bound."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import structlog

from csi_slayer.config import MountConfig
from csi_slayer.errors import MountFailed, SlayerError, VolumeConflict
from csi_slayer.fuse import mount as mounts
from csi_slayer.node import binding
from csi_slayer.node.binding import Binder
from csi_slayer.node.cgroups import Limits
from csi_slayer.node.events import Events
from csi_slayer.node.footprint import Footprint
from csi_slayer.node.keeping import Held, Keeping
from csi_slayer.node.launcher import Launcher
from csi_slayer.node.lifecycle import Lifecycle
from csi_slayer.node.records import Places, Record, Target, mark, public
from csi_slayer.node.running import Running, State
from csi_slayer.observability import log_context
from csi_slayer.worker.spec import WorkerSpec

log = structlog.get_logger(__name__)

PINNED = 3.0
"""Seconds after unmounting until a connection is ended that something outside keeps alive."""

EVENT_RESTARTS = 3
"""Restarts of a worker after which there is an event, each time."""


WITH_PODS = 100
"""Targets of a volume up to which a keeper is told their pods: what it takes is limited
(:mod:`csi_slayer.node.keeper`), and the record on the disk has them as well."""


@dataclass(frozen=True, slots=True)
class Node:
    """What all volumes of the node share."""

    places: Places
    binder: Binder
    launcher: Launcher
    keeping: Keeping
    limits: Limits
    events: Events


class Volume:
    """Owns the worker of ``record.mount_id``. Calls must not overlap, but for :meth:`describe`.

    ``gone`` is called once the worker has ended for good and what it had here is removed.
    """

    def __init__(
        self, node: Node, record: Record, config: MountConfig, gone: Callable[[Volume], None]
    ) -> None:
        self.record = record
        self.config = config
        self.removed = asyncio.Event()
        """Set once it is gone and nothing of it is left."""
        self.last_status: dict[str, Any] = {}
        """What the worker last said of itself."""
        self._node = node
        self._footprint = Footprint(node.places, node.limits, record.mount_id)
        self._gone = gone
        self._saving = asyncio.Lock()
        self._unsaved = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._established = False
        self._stopped = False
        self.running: Running | None = None

    @property
    def id(self) -> str:
        return self.record.mount_id

    @property
    def private(self) -> str:
        """Where the worker mounts."""
        return self._footprint.private

    @property
    def control(self) -> str:
        return self._footprint.control

    @property
    def state(self) -> State:
        return State.GONE if self.running is None else self.running.state

    @property
    def restarts(self) -> int:
        return 0 if self.running is None else self.running.life.restarts

    @property
    def finishing(self) -> bool:
        """Shown nowhere any more, while uploads may be under way."""
        return not self.record.targets

    @property
    def unmounted(self) -> bool:
        """Whether workers have only to upload."""
        life = None if self.running is None else self.running.life
        return bool(life and life.session and life.session.get("unmounted"))

    # -- starting and ending --------------------------------------------------------------------

    async def mount(self, timeout: float) -> None:
        """A new worker, and its mount in the private directory. Raises MountFailed."""
        await self._footprint.take_lock()
        await asyncio.to_thread(self._footprint.make_way)
        await asyncio.to_thread(self._footprint.register, self.config.store.url)
        self._start(Lifecycle(self._spec(), bound=True))
        assert self.running is not None
        await self.running.serving(timeout)
        connection = self.record.connection
        if connection is None or not await asyncio.to_thread(
            binding.shown, self.private, connection
        ):
            raise MountFailed("the volume was unmounted while it was being mounted: try again")
        self._established = True

    async def resume(self, session: dict[str, Any], fuse_fd: int | None, restarts: int) -> None:
        """A new worker for a mount that there is, or, with ``{"unmounted": true}``, for what is
        still to be uploaded. Raises MountFailed if somebody else has the volume."""
        try:
            await self._footprint.take_lock()
        except BaseException:
            if fuse_fd is not None:
                os.close(fuse_fd)
            raise
        self._established = True
        await asyncio.to_thread(self._footprint.register, self.config.store.url)
        self._start(
            Lifecycle(self._spec(), bound=True, session=session, fuse_fd=fuse_fd, restarts=restarts)
        )

    async def finish(self, timeout: float, last: Record) -> bool:
        """Unmount, and wait until all is uploaded; False if that takes longer: it goes on then.
        ``last``: the record as it was with the last target."""
        if self._stopped:
            return True  # a successor has it
        assert self.running is not None
        await asyncio.to_thread(binding.unmount, self.private)
        if not await self.running.gone(min(timeout, PINNED)):
            await asyncio.to_thread(self._abort)
        if await self.running.gone(max(0.0, timeout - PINNED)):
            await self.removed.wait()
            return True
        self.running.unmounted()
        await self.save()
        self._node.events.warn(
            last,
            "UploadsUnfinished",
            "the volume was unpublished before everything was in the store: the rest is uploaded"
            " in the background, from the node's cache directory",
        )
        return False

    async def stop(self) -> None:
        """End the worker as a crash would; mount, state and what the keeper holds stay."""
        self._stopped = True
        if self.running is not None:
            await self.running.stop()
        # None is cut off: a thread of it would go on, and meet the successor.
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._footprint.free_lock()

    async def discard(self) -> None:
        """Stop, and leave nothing but what may not be lost: for a volume that did not mount."""
        ours = self._footprint.lock >= 0
        await self.stop()
        if ours:
            await self._remove()
        else:
            self.removed.set()  # what there is belongs to who has the lock

    # -- while it is mounted --------------------------------------------------------------------

    async def bind(self, path: str, target: Target) -> None:
        """Show it at the path as well. Raises MountFailed, ConfigError."""
        connection = self.record.connection
        assert connection is not None
        before = self.record.targets.get(path)
        if before != target:
            # Before it is done: whoever comes after a crash has to know of it.
            self.record.targets[path] = target
            await self.save()
        try:
            await asyncio.to_thread(
                self._node.binder.bind, self.private, path, connection, target.options
            )
        except SlayerError:
            if before is None:
                del self.record.targets[path]
            else:
                self.record.targets[path] = before
            if before != target:
                await self.save()
            raise

    async def unbind(self, path: str) -> None:
        """Show it there no more; the directory stays. Raises MountFailed."""
        await asyncio.to_thread(self._node.binder.clear, path)
        if self.record.targets.pop(path, None) is not None:
            await self.save()

    async def renew(self, wanted: MountConfig, timeout: float, identity: str | None = None) -> None:
        """Go on with the credentials and options of ``wanted``; what it says of the node itself is
        not the volume's. ``identity``: whose credentials they are, None: whose they were. Raises
        MountFailed; VolumeConflict if an option cannot be changed."""
        config = self.config.model_copy(update={"store": wanted.store, "volume": wanted.volume})
        if config == self.config:
            return
        assert self.running is not None
        await self.running.serving(timeout)
        try:
            await self.running.update(config.to_spec().decode())
        except MountFailed as error:
            if error.grpc_code in ("FAILED_PRECONDITION", "ALREADY_EXISTS"):
                raise VolumeConflict(
                    f"the volume is in use on this node with other options: {error}"
                ) from error
            raise
        self.config = config
        self.record.config = public(config)
        self.record.identity = identity or self.record.identity
        await self.save()

    # -- what is kept of it ---------------------------------------------------------------------

    def describe(self) -> Held | None:
        """For the keeper."""
        life = self.running.life if self.running is not None else None
        if life is None or life.session is None:
            return None
        record = self.record.copy()
        if len(record.targets) > WITH_PODS:
            record.targets = {
                path: replace(target, pod=None) for path, target in record.targets.items()
            }
        state = {
            "record": record.to_json(),
            "session": life.session,
            "restarts": life.restarts,
        }
        return Held(state, self.config.to_spec(), life.fuse_fd)

    async def save(self) -> None:
        """Bring what is on the disk and in the keeper up to date."""
        self._unsaved = True
        async with self._saving:
            if not self._unsaved or self._stopped or self.removed.is_set():
                return  # saved by somebody who waited for the same lock, or not ours any more
            self._unsaved = False
            self.record.changes += 1
            await asyncio.to_thread(self._node.places.write, self.record.copy())
            await self._node.keeping.put(self.id)

    # -- inside ---------------------------------------------------------------------------------

    def _spec(self) -> dict[str, Any]:
        return WorkerSpec(
            volume=self.id,
            mountpoint=self.private,
            control=self.control,
            config=self.config.to_spec().decode(),
            labels={"volume": self.record.volume_id, **self.record.labels},
            governs=False,
        ).to_message()

    def _start(self, life: Lifecycle) -> None:
        self.running = Running(
            life,
            self._node.launcher,
            (self._footprint.lock,),
            on_start=self._on_start,
            on_session=self._on_session,
            on_gone=lambda: self._spawn(self._ended),
        )
        with log_context(volume=self.record.volume_id, mount=self.id):
            self.running.start()

    async def _on_start(self, pid: int) -> None:
        """Before the worker has been told anything, and so before it has used any memory."""
        self.record.worker = mark(pid)
        await asyncio.to_thread(self._node.limits.confine, self.id, pid)
        self._spawn(self.save)
        if self.restarts and self.restarts % EVENT_RESTARTS == 0:
            self._node.events.warn(
                self.record,
                "WorkerRestarts",
                f"the volume's worker has died {self.restarts} times; nothing is lost, but requests"
                " wait each time: the node's log says why",
            )

    def _on_session(self) -> None:
        """A new connection; if it is not the first, what is bound shows a dead one."""
        assert self.running is not None
        session = self.running.life.session
        if session is None:
            return
        self.record.connection = int(session["connection"])
        self._spawn(self._bind_again if self.record.targets else self.save)

    async def _bind_again(self) -> None:
        for path, target in list(self.record.targets.items()):
            try:
                await self.bind(path, target)
            except MountFailed as error:
                log.error("not_bound_again", target=path, error=str(error))
        await self.save()

    async def _ended(self) -> None:
        if self._stopped or not self._established:
            return
        await self._remove()
        self._gone(self)

    async def _remove(self) -> None:
        """Take away what is here, but for what is still to be uploaded."""
        record = self.record
        try:
            async with self._saving:
                await asyncio.to_thread(
                    self._footprint.remove, [*record.targets], record.connection
                )
                await self._node.keeping.drop(self.id)
        finally:
            self._footprint.free_lock()
            self.removed.set()

    def _abort(self) -> None:
        """End the connection where something outside, such as a mount namespace that got a copy of
        the mount, would keep it for ever. What was written is staged, and is uploaded."""
        life = self.running.life if self.running is not None else None
        if life is None or self.record.connection is None:
            return
        if not binding.alive(life.fuse_fd):
            return  # its number may be another's by now
        log.warning("connection_aborted", connection=self.record.connection)
        mounts.abort(self.record.connection)

    def _spawn(self, body: Callable[[], Any]) -> None:
        task = asyncio.create_task(body())
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("upkeep_failed", volume=self.id, error=str(error), exc_info=error)
