"""What an earlier node service has left is taken over, or mended where it is dead.

* What the keeper holds lives: its mounts go on with new workers.
* Workers of an earlier node service are ended first; theirs would be two for one mount.
* Mounts whose connection nobody holds are dead: they are ended, so that nobody hangs in them. At
  the targets they stay, until publication mounts anew or unpublication takes them away: who uses
  them gets ENOTCONN, where a bare directory would take what is written and lose it.
* What such volumes had still to upload is uploaded where the driver's own identity may do it, else
  by the next publication, and reported until then.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from csi_slayer.config import MountConfig
from csi_slayer.config.driver import DriverConfig
from csi_slayer.errors import SlayerError
from csi_slayer.fuse import mount as mounts
from csi_slayer.node import leftover, registry
from csi_slayer.node.binding import alive
from csi_slayer.node.keeping import Held
from csi_slayer.node.lock import is_locked
from csi_slayer.node.records import Places, Record, WorkerMark, boot_id, mark
from csi_slayer.node.remains import SETTLE, is_all_that_is_left
from csi_slayer.volumes.identity import driver_identity

log = structlog.get_logger(__name__)

END_TIMEOUT = 10.0
"""Seconds that a killed worker may take to be gone."""

Adopt = Callable[[Record, MountConfig, Held], Awaitable[None]]
"""Starts a worker for what was held."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """``orphans``: ids of state directories with something to upload that nobody uploads.
    ``lost``: records of volumes whose pods have a dead mount now. ``dead``: names under which the
    keeper holds what nobody can go on with."""

    orphans: set[str]
    lost: list[Record]
    dead: set[str]


class Recovery:
    """One start of the node service."""

    def __init__(self, config: DriverConfig, places: Places, adopt: Adopt) -> None:
        self._config = config
        self._places = places
        self._adopt = adopt

    async def run(self, held: dict[str, Held]) -> Recovered:
        """``held``: what the keeper has. Its descriptors are taken over."""
        known = _records_of(held)
        for record in await asyncio.to_thread(lambda: [*self._places.read()]):
            kept = known.get(record.mount_id)
            # Either may have been out of reach when the other one was written.
            if kept is None or kept.changes <= record.changes:
                known[record.mount_id] = record
        # A mark tells processes of one boot apart.
        boot = boot_id()
        await asyncio.gather(
            *(
                asyncio.to_thread(_end, it.worker, str(self._places.state(name)))
                for name, it in known.items()
                if it.worker is not None and it.boot == boot
            )
        )
        live = {name: entry for name, entry in held.items() if self._lives(name, entry, known)}
        connections = {
            record.connection for name in live if (record := known[name]).connection is not None
        }
        dead = [record for name, record in known.items() if name not in live]
        broken = await asyncio.to_thread(self._mend, dead, connections)
        # With the pods that had it: settling forgets them.
        lost = [it.copy() for it in dead if it.mount_id in broken and it.targets]
        await asyncio.gather(*(self._resume(known[name], entry) for name, entry in live.items()))
        await asyncio.gather(*(self._settle(record) for record in dead))
        orphans = await asyncio.to_thread(self._orphans, set(known) - {r.mount_id for r in dead})
        return Recovered(orphans, lost, set(held) - set(live))

    def _lives(self, name: str, entry: Held, known: dict[str, Record]) -> bool:
        """Whether a worker can go on with it; if not it is let go."""
        session = _session(entry)
        if name in known and session is not None:
            if session.get("unmounted") or alive(entry.fuse_fd):
                return True
        if entry.fuse_fd is not None:
            os.close(entry.fuse_fd)
            entry.fuse_fd = None
        return False

    async def _resume(self, record: Record, entry: Held) -> None:
        try:
            config = self._renewed(MountConfig.understood(entry.spec))
            record.connection = entry.state["session"].get("connection")
            record.boot = boot_id()
            await self._adopt(record, config, entry)
            log.info("taken_over", volume=record.volume_id, targets=len(record.targets))
        except (SlayerError, OSError) as error:
            log.error("cannot_take_over", volume=record.volume_id, error=str(error))

    def _renewed(self, config: MountConfig) -> MountConfig:
        """What the configuration says of the node is as the node has it now; what the kernel was
        told and where the data is stays."""
        driver = self._config
        values: dict[str, Any] = {"log": driver.log, "tracing": driver.tracing}
        if driver.cache.directory == config.cache.directory:
            values["cache"] = driver.cache
        return config.model_copy(update=values)

    def _mend(self, dead: list[Record], live: set[int]) -> set[str]:
        """End mounts of ours that no worker can serve; returns which volumes had any."""
        entries = [entry for entry in mounts.entries() if entry.fstype == mounts.TYPE]
        inside = f"{self._places.mounts}/"
        owners: dict[int, str] = {}
        for entry in entries:
            if entry.mountpoint.startswith(inside) and entry.connection not in live:
                owners[entry.connection] = Path(entry.mountpoint).name
            for record in dead:
                if entry.mountpoint in record.targets and entry.connection not in live:
                    owners.setdefault(entry.connection, record.mount_id)
        for connection, name in owners.items():
            log.error("dead_mount_ended", mount=name, connection=connection)
            try:
                mounts.abort(connection)
            except OSError as error:
                log.error("cannot_abort", connection=connection, reason=error.strerror)
        for entry in reversed(entries):
            if entry.connection in owners and entry.mountpoint.startswith(inside):
                try:
                    mounts.unmount(entry.mountpoint, lazy=True)
                except OSError as error:
                    log.error("cannot_unmount", path=entry.mountpoint, reason=error.strerror)
        for name in set(owners.values()):
            leftover.remove_places(self._places, name)
        return set(owners.values())

    async def _settle(self, record: Record) -> None:
        """A volume without a mount: upload what it left, or forget it."""
        try:
            await self._upload_or_forget(record)
        except (SlayerError, OSError) as error:
            log.error("cannot_resume_uploads", volume=record.volume_id, error=str(error))

    async def _upload_or_forget(self, record: Record) -> None:
        name = record.mount_id
        await asyncio.to_thread(registry.remove, name)
        state, staging = self._places.state(name), self._places.staging(name)
        if await asyncio.to_thread(leftover.unsaved, state, staging) == 0:
            await asyncio.to_thread(leftover.remove_state, self._places, name)
            await asyncio.to_thread(self._places.forget, name)
            return
        record.targets, record.worker, record.connection = {}, None, None
        record.boot = boot_id()
        await asyncio.to_thread(self._places.write, record)
        if record.identity.partition(":")[0] != "driver":
            return
        config = await self._as_driver(record)
        entry = Held({"session": {"unmounted": True}, "restarts": 0}, config.to_spec())
        await self._adopt(record, self._renewed(config), entry)
        log.info("uploads_resumed", volume=record.volume_id)

    async def _as_driver(self, record: Record) -> MountConfig:
        role = record.identity.partition(":")[2] or None
        identity = await driver_identity(self._config.store, role)
        config = MountConfig.understood(record.config)
        return config.model_copy(
            update={"store": config.store.model_copy(update=dict(identity.fields))}
        )

    def _orphans(self, resumed: set[str]) -> set[str]:
        """State directories of this cache with something to upload that nobody serves."""
        found = set()
        for state in self._places.state("x").parent.glob("*"):
            name = state.name
            if name in resumed or is_locked(str(state)):
                continue
            if leftover.unsaved(state, self._places.staging(name)):
                log.error("uploads_orphaned", state=str(state), until="it is published again")
                found.add(name)
        return found


def _records_of(held: dict[str, Held]) -> dict[str, Record]:
    records = {}
    for name, entry in held.items():
        try:
            if _session(entry) is None:
                raise ValueError("no session")
            records[name] = Record.from_json(entry.state["record"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("keeper_holds_nonsense", name=name, error=type(error).__name__)
    return records


def _session(entry: Held) -> dict[str, Any] | None:
    """What the volume's workers know of their mount; None for what no version has written."""
    session, restarts = entry.state.get("session"), entry.state.get("restarts")
    return session if isinstance(session, dict) and isinstance(restarts, int) else None


def _end(worker: WorkerMark, state: str) -> None:
    """End a process, if it still is that one, and wait until it is gone, or has let the volume go
    whose state this is (:mod:`csi_slayer.node.remains`)."""
    try:
        pidfd = os.pidfd_open(worker.pid)
    except OSError:
        return
    try:
        if mark(worker.pid) != worker:
            return
        log.warning("leftover_worker_ended", pid=worker.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + END_TIMEOUT
        while not poll.poll(SETTLE * 1000):
            if is_all_that_is_left(worker.pid) and not is_locked(state):
                return
            if time.monotonic() > deadline:
                log.error("leftover_worker_stays", pid=worker.pid)
                return
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
