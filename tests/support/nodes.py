"""Node services and keepers for tests, and the volumes published on them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from csi_slayer.config import MountConfig
from csi_slayer.fuse import mount as mounts
from csi_slayer.node.records import mark
from tests.support import servers
from tests.support.mounts import wait_for
from tests.support.preloaded import Forked, preloaded
from tests.support.processes import descendants, end

ROOT = Path(__file__).resolve().parents[2]


class Refused(Exception):
    """The node service said no."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class TestNode:
    """One machine's node service, keeper and directories, all below ``base``."""

    __test__ = False

    def __init__(
        self,
        base: Path,
        *,
        package: Path = ROOT,
        store: Mapping[str, Any] | None = None,
        **node: Any,
    ) -> None:
        self.base = base
        self.kubelet = base / "kubelet"
        self.run = self.kubelet / "plugins/csi"
        self.cache = base / "cache"
        self.log = base / "node.log"
        self.package = package
        self.store = dict(store or {})
        self.node = node
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._orders: TextIO | None = None
        self.keeper: subprocess.Popen[bytes] | None = None
        self._answers: dict[int, dict[str, Any]] = {}
        self._arrived = threading.Condition()
        self._calls = 0
        self.kubelet.mkdir(exist_ok=True)

    def config(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "cache": {"directory": str(self.cache), "capacity": "2GiB", "min_free": 0},
            "node": {
                "name": "test-node",
                "kubelet_directory": str(self.kubelet),
                "run_directory": str(self.run),
                "events": False,
                **self.node,
            },
        }

    # -- processes ------------------------------------------------------------------------------

    def start_keeper(self) -> None:
        program = ROOT / "csi_slayer/node/keeper.py"
        path = self.run / "keeper.sock"
        path.unlink(missing_ok=True)
        self.keeper = subprocess.Popen([sys.executable, str(program), str(path)])
        servers.live_pids.add(self.keeper.pid)
        wait_for(path.exists, what="the keeper's socket")

    def wait_for_keeper(self, *, there: bool) -> None:
        """Until the node service knows that there is none, or has given it everything."""
        wanted = f"\nslayerfs_node_keeper_connected {int(there)}"
        wait_for(lambda: wanted in self.call("metrics"), what=f"keeper connected: {there}")

    def start(self) -> TestNode:
        """The node service; returns when it has recovered what it found."""
        theirs, ours = os.pipe()
        answers, answering = os.pipe()
        self._orders = open(ours, "w")  # noqa: SIM115
        config = json.dumps(self.config())
        with self.log.open("ab") as log:
            if self.package == ROOT:
                self.process = preloaded("tests.support.node:main").start(
                    ["node", config], os.environ, answering, log.fileno(), [theirs]
                )
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "tests.support.node", config, "0"],
                    stdin=theirs,
                    stdout=answering,
                    stderr=log,
                    cwd=self.package,
                    env={**os.environ, "PYTHONPATH": str(self.package)},
                )
        os.close(theirs)
        os.close(answering)
        servers.live_pids.add(self.process.pid)
        self._answers.clear()
        threading.Thread(target=self._read, args=(answers,), daemon=True).start()
        self._answer(0, 60)
        return self

    def kill(self) -> None:
        """kill -9 of the node service alone."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def kill_keeper(self) -> None:
        if self.keeper is not None:
            self.keeper.kill()
            self.keeper.wait()
            self.keeper = None

    def stop(self) -> None:
        """End the node service in good order; mounts stay."""
        assert self.process is not None and self._orders is not None
        self._orders.close()
        self.process.wait(30)
        self._reap()

    def _reap(self) -> None:
        if self.process is not None:
            self.process.wait()
            if self._orders is not None:
                with contextlib.suppress(OSError):
                    self._orders.close()
            self.process = None

    def _read(self, answers: int) -> None:
        with open(answers) as lines:
            for line in lines:
                said = json.loads(line)
                with self._arrived:
                    self._answers[said["id"]] = said
                    self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    # -- calls ----------------------------------------------------------------------------------

    def begin(self, op: str, **values: Any) -> int:
        """Send a call; :meth:`end` has its answer."""
        assert self._orders is not None
        with self._arrived:
            self._calls += 1
            number = self._calls
        self._orders.write(json.dumps({"id": number, "op": op, "values": values}) + "\n")
        self._orders.flush()
        return number

    def end(self, number: int, seconds: float = 90.0) -> Any:
        said = self._answer(number, seconds)
        if "error" in said:
            raise Refused(said["code"], said["error"])
        return said["ok"]

    def call(self, op: str, **values: Any) -> Any:
        return self.end(self.begin(op, **values))

    def _answer(self, number: int, seconds: float) -> dict[str, Any]:
        process = self.process
        assert process is not None
        with self._arrived:
            done = self._arrived.wait_for(
                lambda: number in self._answers or process.poll() is not None, seconds
            )
            if number not in self._answers:
                reason = "it ended" if done else "no answer"
                raise AssertionError(f"node service: {reason}\n{self.log.read_text()[-4000:]}")
            return self._answers.pop(number)

    def target(self, pod: str) -> Path:
        path = self.kubelet / f"pods/{pod}/volumes/kubernetes.io~csi/pv/mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def request(
        self,
        volume: str,
        pod: str,
        url: str,
        *,
        store: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        fuse: Mapping[str, Any] | None = None,
        identity: str = "driver",
        **rest: Any,
    ) -> dict[str, Any]:
        """Values of a publish call. ``store``, ``options`` (of the volume) and ``fuse`` are
        sections of its configuration."""
        config = MountConfig.model_validate(
            {
                "store": {"url": url, **(store or {})},
                "cache": self.config()["cache"],
                "volume": dict(options or {}),
                "fuse": dict(fuse or {}),
            }
        )
        return {
            "volume_id": volume,
            "target": str(self.target(pod)),
            "identity": identity,
            "config": config.to_spec().decode(),
            **rest,
        }

    def publish(self, volume: str, pod: str, url: str, **rest: Any) -> Path:
        """Publish, and return the pod's path."""
        self.call("publish", **self.request(volume, pod, url, **rest))
        return self.target(pod)

    def unpublish(self, volume: str, pod: str) -> list[str]:
        return list(self.call("unpublish", volume_id=volume, target=str(self.target(pod))))

    def release(self, volume: str, pod: str) -> list[str]:
        """Unpublish, and wait until all is uploaded, also where that takes longer than
        ``flush_timeout``; returns what is gone from this node then."""
        return list(wait_for(lambda: self.unpublish(volume, pod), 60, f"the end of {volume}"))

    # -- what there is --------------------------------------------------------------------------

    def mounts(self) -> list[str]:
        """Mount points of this machine, without touching any."""
        return [e.mountpoint for e in mounts.entries() if e.mountpoint.startswith(str(self.base))]

    def records(self) -> list[dict[str, Any]]:
        found = []
        for path in sorted((self.run / "volumes").glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # forgotten while we look
                found.append(json.loads(path.read_text()))
        return found

    def workers(self) -> list[int]:
        """Pids of the workers that the records name and that live."""
        found = []
        for record in self.records():
            worker = record["worker"]
            if worker and (now := mark(worker["pid"])) and now.started == worker["started"]:
                found.append(worker["pid"])
        return found

    def kill_workers(self) -> int:
        pids = self.workers()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def close(self) -> None:
        """End everything, whatever state it is in; when it returns nobody writes below ``base``."""
        below = []
        if self.process is not None:
            below = descendants(self.process.pid)  # a new worker is in no record yet
            self.process.kill()
            self._reap()
        for entry in reversed(mounts.entries()):
            if entry.mountpoint.startswith(str(self.base)):
                with contextlib.suppress(OSError):
                    if entry.fstype == mounts.TYPE:  # else the number is no connection's
                        mounts.abort(entry.connection)
                    mounts.unmount(entry.mountpoint, lazy=True)
        self.kill_keeper()
        for pid in {*below, *self.workers()}:
            end(pid)


@contextlib.contextmanager
def node_at(base: Path, *, keeper: bool = True, **rest: Any) -> Iterator[TestNode]:
    node = TestNode(base, **rest)
    node.run.mkdir(parents=True, exist_ok=True)
    try:
        if keeper:
            node.start_keeper()
        yield node.start()
    finally:
        node.close()
