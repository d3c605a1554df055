"""A worker that does not answer any more is ended; one that does is left alone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from csi_slayer.node import health
from csi_slayer.node.events import Events
from csi_slayer.node.health import Health
from csi_slayer.node.records import Record
from csi_slayer.node.running import State
from csi_slayer.node.volume import Volume


class Worker:
    """Answers on a control socket, for as long as ``answers`` is true."""

    def __init__(self, path: Path) -> None:
        self.answers = True
        self.failing: list[dict[str, str]] = []
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                client, _address = self._socket.accept()
            except OSError:
                return
            with client:
                if self.answers:
                    client.recv(1000)
                    lines = [{"used_bytes": 1, "failing": self.failing}, {"done": True}]
                    client.sendall("".join(json.dumps(line) + "\n" for line in lines).encode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


class FakeRunning:
    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.killed = 0

    def kill(self) -> None:
        self.killed += 1
        self.pid += 1  # the next worker


def volume(control: str, pid: int, state: State = State.SERVING) -> Any:
    record = Record("0" * 16, "volume", "driver", {})
    return SimpleNamespace(
        control=control, record=record, state=state, restarts=0, last_status={},
        running=FakeRunning(pid),
    )  # fmt: skip


def test_only_silent_workers_are_ended(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "control")
    well = volume(worker.path, 1)
    silent = volume(str(tmp_path / "nobody"), 2)
    starting = volume(str(tmp_path / "nobody"), 3, State.STARTING)
    volumes = [cast(Volume, it) for it in (well, silent, starting)]

    async def run() -> None:
        looker = Health(lambda: volumes, Events("node", enabled=False))
        for _ in range(health.SILENT - 1):
            await looker.look_at_all()
        assert silent.running.killed == 0
        await looker.look_at_all()
        assert silent.running.killed == 1
        assert looker.hung == 1
        await looker.look_at_all()
        assert silent.running.killed == 1, "its successor has its own time"
        assert well.running.killed == starting.running.killed == 0
        assert well.last_status["used_bytes"] == 1

    try:
        asyncio.run(run())
    finally:
        worker.close()


def test_an_answer_in_between_counts(tmp_path: Path) -> None:
    worker = Worker(tmp_path / "control")
    one = volume(worker.path, 1)

    async def run() -> None:
        looker = Health(lambda: [cast(Volume, one)], Events("node", enabled=False))
        for number in range(health.SILENT * 3):
            worker.answers = number % health.SILENT == 0
            await looker.look_at_all()
        assert one.running.killed == 0

    try:
        asyncio.run(run())
    finally:
        worker.close()


@pytest.mark.allow_log("Traceback")
def test_a_volume_that_cannot_be_judged_does_not_save_one_that_is_silent(tmp_path: Path) -> None:
    """Its worker is of another version, say, and answers otherwise."""
    worker = Worker(tmp_path / "control")
    worker.failing = [{}]
    odd = volume(worker.path, 1)
    silent = volume(str(tmp_path / "nobody"), 2)

    async def run() -> None:
        volumes = [cast(Volume, it) for it in (odd, silent)]
        looker = Health(lambda: volumes, Events("node", enabled=False))
        for _ in range(health.SILENT):
            await looker.look_at_all()
        assert silent.running.killed == 1
        assert odd.running.killed == 0

    try:
        asyncio.run(run())
    finally:
        worker.close()


def test_a_round_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PERIOD", 0.0)

    async def run() -> None:
        rounds, enough = 0, asyncio.Event()

        def volumes() -> list[Volume]:
            nonlocal rounds
            rounds += 1
            if rounds == 3:
                enough.set()
            raise OSError(24, "Too many open files")

        looker = Health(volumes, Events("node", enabled=False))
        looker.start()
        await asyncio.wait_for(enough.wait(), 30)
        await looker.close()

    asyncio.run(run())
