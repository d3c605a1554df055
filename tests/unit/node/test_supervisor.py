"""The supervisor with a worker program that does as it is told and writes down what it got."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.node import lifecycle
from csi_slayer.node import supervisor as module
from csi_slayer.node.supervisor import CannotStart, Supervisor
from csi_slayer.worker import channel
from tests.support.remains import REMAIN

WORKER = """#!{python}
import json, os, signal, socket, sys
{remain}
supervisor = socket.socket(fileno=int(sys.argv[3]))
data, fds, _flags, _address = socket.recv_fds(supervisor, 1 << 18, 4)
message = json.loads(data)
spec = message["spec"]
with open(spec["log"], "a") as log:
    got = {{
        "pid": os.getpid(),
        "restarts": message["restarts"], "session": message["session"],
        "fds": [os.fstat(fd).st_ino for fd in fds],
        "readable": {secret!r} in " ".join(sys.argv) + str(dict(os.environ)),
        "kept": [os.path.exists(f"/proc/self/fd/{{fd}}") for fd in spec.get("kept", ())],
    }}
    log.write(json.dumps(got) + "\\n")

for step in spec["plan"][message["restarts"]].split():
    if step == "mount":
        fd = os.open(spec["device"], os.O_RDWR)
        state = json.dumps({{"session": {{"connection": message["restarts"]}}}}).encode()
        socket.send_fds(supervisor, [state], [fd])
    elif step == "ready":
        supervisor.send(b'{{"ready": 1}}')
    elif step == "error":
        supervisor.send(b'{{"error": "the bucket is missing"}}')
    elif step == "nonsense":
        supervisor.send(b"not json")
    elif step == "said":
        open(spec["said"], "w").close()
    elif step == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif step == "remain":
        remain(spec["said"])
    elif step == "hang":
        signal.pause()
    else:
        sys.exit(int(step))
"""

SECRET = "do-not-show-me"


class Stand:
    """What a supervisor needs around it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = base / "worker"
        program.write_text(WORKER.format(python=sys.executable, secret=SECRET, remain=REMAIN))
        program.chmod(0o755)
        self.device = base / "device"
        self.device.touch()
        self.log = base / "log"
        self.said = base / "said"
        self.ready: list[int] = []
        monkeypatch.setattr(module, "sys", SimpleNamespace(executable=str(program)))
        self.pauses: list[float] = []
        clock = SimpleNamespace(sleep=self.pauses.append, monotonic=time.monotonic)
        monkeypatch.setattr(module, "time", clock)

    def supervisor(self, *plan: str, keep: tuple[int, ...] = ()) -> Supervisor:
        spec: dict[str, Any] = {
            "plan": plan, "log": str(self.log), "device": str(self.device), "secret": SECRET,
            "kept": list(keep), "said": str(self.said),
        }  # fmt: skip
        return Supervisor(spec, sys.__stderr__.fileno(), self.ready.append, keep)

    @property
    def workers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    return Stand(tmp_path, monkeypatch)


def test_a_volume_that_is_unmounted_ends_it(stand: Stand) -> None:
    assert stand.supervisor("mount ready 0").run() == 0
    assert len(stand.ready) == 1
    assert stand.pauses == []


def test_the_next_worker_gets_the_connection(stand: Stand) -> None:
    supervisor = stand.supervisor("mount ready killed", "ready 7", "ready 0")
    assert supervisor.run() == 0
    device = stand.device.stat().st_ino
    first, second, third = stand.workers
    assert (first["session"], first["fds"]) == (None, [])
    for worker in (second, third):
        assert (worker["session"], worker["fds"]) == ({"connection": 0}, [device])
    assert [worker["restarts"] for worker in stand.workers] == [0, 1, 2]
    assert supervisor.restarts == 2
    assert len(stand.ready) == 1, "the client is told once"


def test_a_mounted_volume_is_looked_after(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one that is about to be mounted: it may not come to that."""
    monkeypatch.setattr(module, "LOOK_AFTER", 0.01)
    supervisor = stand.supervisor("mount ready hang", "0")
    looks: list[int] = []

    def look() -> None:
        looks.append(len(stand.ready))
        if len(looks) == 3:
            os.kill(stand.ready[0], signal.SIGKILL)

    supervisor._look_after = look
    assert supervisor.run() == 0
    assert looks[:3] == [1, 1, 1]


def test_a_worker_that_mounts_anew_replaces_the_connection(stand: Stand) -> None:
    supervisor = stand.supervisor("mount ready killed", "mount killed", "0")
    supervisor.run()
    assert supervisor.connection == 1
    assert stand.workers[2]["session"] == {"connection": 1}


def test_its_own_descriptors_do_not_pile_up(stand: Stand) -> None:
    before = len(os.listdir("/proc/self/fd"))
    supervisor = stand.supervisor(*["mount killed"] * 4, "0")
    supervisor.run()
    assert len(os.listdir("/proc/self/fd")) == before


def test_pauses_grow_for_workers_that_die_young(stand: Stand) -> None:
    stand.supervisor("mount ready killed", *["killed"] * 9, "0").run()
    assert stand.pauses[:3] == [0.05, 0.1, 0.2]
    assert stand.pauses == sorted(stand.pauses)
    assert stand.pauses[-1] == lifecycle.BACKOFF_MAX


def test_a_worker_that_cannot_start_says_why(stand: Stand) -> None:
    with pytest.raises(CannotStart, match="the bucket is missing"):
        stand.supervisor("error 3").run()
    assert stand.ready == []
    assert len(stand.workers) == 1, "it is not tried again"


def test_a_worker_that_dies_before_it_mounted_is_not_started_again(stand: Stand) -> None:
    with pytest.raises(CannotStart, match="status -9"):
        stand.supervisor("killed").run()


def test_a_malformed_message_is_a_death(stand: Stand) -> None:
    with pytest.raises(CannotStart):
        stand.supervisor("nonsense 3").run()


def test_workers_hold_the_lock_and_no_secret_shows(stand: Stand, tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        stand.supervisor("mount ready killed", "0", keep=(lock,)).run()
    finally:
        os.close(lock)
    assert [worker["kept"] for worker in stand.workers] == [[True], [True]]
    assert not any(worker["readable"] for worker in stand.workers)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_left_of_a_worker_holds_nobody_up(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLE", 0.05)
    assert stand.supervisor("mount ready remain", "ready said 0").run() == 0
    first, second = stand.workers
    assert second["session"] == {"connection": 0}
    wait_until(lambda: not os.path.exists(f"/proc/{first['pid']}"))


def test_giving_up_ends_a_worker_that_has_not_mounted(stand: Stand) -> None:
    supervisor = stand.supervisor("hang")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            supervisor.run()
        except CannotStart as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(stand.log.exists)
    assert supervisor.give_up()
    thread.join(30)
    assert len(ended) == 1


def test_giving_up_before_there_is_a_worker_ends_it_at_once(stand: Stand) -> None:
    supervisor = stand.supervisor("hang")
    assert supervisor.give_up()
    with pytest.raises(CannotStart):
        supervisor.run()


@pytest.mark.parametrize("plan", ["mount said hang", "mount ready said hang"])
def test_giving_up_is_not_lost_on_a_worker_that_has_mounted_meanwhile(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    """The signal comes when all that it has said is yet to be read."""
    supervisor = stand.supervisor(plan, "0")
    receive = channel.receive
    signals: list[bool] = []

    def signalled(end: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
        if not signals:
            wait_until(stand.said.exists)
            signals.append(supervisor.give_up())
        return receive(end)

    monkeypatch.setattr(channel, "receive", signalled)
    with pytest.raises(CannotStart, match="told to end"):
        supervisor.run()
    assert signals == [True]
    assert len(stand.workers) == 1, "it is not started again"
    assert stand.ready == []


def test_giving_up_leaves_a_mounted_volume_alone(stand: Stand) -> None:
    supervisor = stand.supervisor("mount ready 0")
    supervisor.run()
    assert not supervisor.give_up()


def test_an_abandoned_volume_s_worker_is_ended_and_not_started_again(stand: Stand) -> None:
    supervisor = stand.supervisor("mount ready hang", "0")
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(supervisor.run()))
    thread.start()
    wait_until(lambda: stand.ready)
    supervisor.abandon()
    thread.join(30)
    assert status == [0]
    assert len(stand.workers) == 1


def test_a_volume_is_abandoned_while_it_waits_for_the_next_worker(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = stand.supervisor("mount ready killed", "0")

    def signalled(_seconds: float) -> None:
        supervisor.abandon()

    clock = SimpleNamespace(sleep=signalled, monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clock)
    assert supervisor.run() == 0
    assert len(stand.workers) == 1
