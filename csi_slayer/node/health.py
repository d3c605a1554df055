"""Looking after published volumes: how they are, and ending workers that have stopped to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from csi_slayer.content.tasks import end_task
from csi_slayer.errors import MountFailed
from csi_slayer.node.asking import ask
from csi_slayer.node.condition import judge
from csi_slayer.node.events import Events
from csi_slayer.node.requests import Condition
from csi_slayer.node.running import State
from csi_slayer.node.volume import Volume
from csi_slayer.observability.complaints import Complaints

log = structlog.get_logger(__name__)

ASK_TIMEOUT: Final = 5.0
"""Seconds that a worker may take to say how its volume is."""

PERIOD: Final = 20.0
"""Seconds between looks at all volumes."""

SILENT: Final = 4
"""Looks in a row without an answer after which a worker is taken to hang, and is ended."""


class Health:
    """``volumes`` gives those that there are."""

    def __init__(self, volumes: Callable[[], Iterable[Volume]], events: Events) -> None:
        self.hung = 0
        """Workers that were ended because they did not answer."""
        self._volumes = volumes
        self._events = events
        self._silent: dict[int, int] = {}
        self._complaints = Complaints(log)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        await end_task(self._task)

    async def look(self, volume: Volume) -> Condition:
        """Ask a volume's worker, and say so if something is wrong."""
        try:
            volume.last_status = await ask(volume.control, "status", timeout=ASK_TIMEOUT)
            answered = True
        except MountFailed:
            answered = False
        condition = judge(volume.state, volume.restarts, volume.last_status if answered else None)
        if condition.abnormal:
            self._events.warn(volume.record, "VolumeAbnormal", condition.message)
        return condition

    async def look_at_all(self) -> None:
        """One round; ends workers that have been silent for too many of them."""
        volumes = [v for v in self._volumes() if v.state in (State.SERVING, State.FINISHING)]
        pids = [None if v.running is None else v.running.pid for v in volumes]
        silent: dict[int, int] = {}
        answers = await asyncio.gather(*(self._answers(volume) for volume in volumes))
        for volume, pid, answered in zip(volumes, pids, answers, strict=True):
            if pid is None or answered:
                continue
            silent[pid] = self._silent.get(pid, 0) + 1
            if silent[pid] >= SILENT and volume.running is not None and volume.running.pid == pid:
                log.error("worker_hangs", pid=pid, volume=volume.record.volume_id)
                self.hung += 1
                volume.running.kill()
        self._silent = silent

    async def _answers(self, volume: Volume) -> bool:
        before = volume.last_status
        try:
            await self.look(volume)
        except Exception as error:  # of one volume: the others are looked at all the same
            self._complaints.failed(volume.record.volume_id, "health_unknown", error,
                                    volume=volume.record.volume_id)  # fmt: skip
        return volume.last_status is not before

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.look_at_all()
            except Exception as error:
                self._complaints.failed("all", "volumes_not_looked_at", error)
