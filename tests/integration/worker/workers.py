"""Workers without a supervisor: the test is at the other end of their socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from csi_slayer.config import MountConfig, load_config
from csi_slayer.fuse import mount as mounts
from csi_slayer.worker import channel
from csi_slayer.worker.spec import WorkerSpec, state_directory
from tests.support.servers import S3Server, live_pids

SECONDS = 30.0
"""How long an answer may take."""


def s3_values(server: S3Server, bucket: str | None = None) -> dict[str, object]:
    """Configuration of a volume on a server, in a new bucket."""
    return {
        "store.url": f"s3://{bucket or server.create_bucket()}",
        "store.endpoint": server.endpoint,
        "store.access_key_id": server.access_key,
        "store.secret_access_key": server.secret_key,
    }


class Worker:
    """One worker process; ``session`` and ``fd`` are kept for its successor."""

    def __init__(self, place: Place, session: dict[str, Any] | None, bound: bool) -> None:
        self.place = place
        self.updates = 0
        self.end, theirs = channel.pair()
        self.end.settimeout(SECONDS)
        with theirs, place.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "csi_slayer.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        live_pids.add(self.process.pid)
        fds = () if session is None or place.fd is None else (place.fd,)
        spec = place.spec.to_message()
        restarts = 0 if session is None else 1
        channel.send(
            self.end,
            {"spec": spec, "session": session, "restarts": restarts, "bound": bound},
            fds,
        )

    def receive(self) -> dict[str, Any] | None:
        """The next message; a kernel connection in it is kept at the place."""
        received = channel.receive(self.end)
        if received is None:
            return None
        message, fds = received
        if fds:
            self.place.keep(fds.pop(), message["session"])
        return message

    def expect(self, key: str) -> dict[str, Any]:
        """Messages until one has ``key``."""
        while (message := self.receive()) is not None:
            if key in message:
                return message
            assert "error" not in message, message
        raise AssertionError(f"ended before {key}: {self.place.log.read_text()}")

    def ready(self) -> Worker:
        self.expect("ready")
        return self

    def ask(self, operation: str) -> dict[str, Any]:
        """The first answer of the control socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(self.place.spec.control)
            client.sendall(json.dumps({"op": operation}).encode() + b"\n")
            with client.makefile("rb") as lines:
                return dict(json.loads(lines.readline()))

    def update(self, config: str) -> dict[str, Any]:
        """What it says to a new configuration."""
        self.updates += 1
        channel.send(self.end, {"update": {"id": self.updates, "config": config}})
        answer = self.receive()
        assert answer is not None, self.place.log.read_text()
        return answer

    def ended(self) -> int:
        """Its exit status."""
        status = self.process.wait(SECONDS)
        self.end.close()
        live_pids.discard(self.process.pid)
        return status


class Place:
    """What outlives a worker: its volume, mount point, kernel connection."""

    def __init__(
        self,
        base: Path,
        values: Mapping[str, object],
        labels: Mapping[str, str],
        governs: bool,
    ) -> None:
        self.root = base / "mnt"
        self.root.mkdir(exist_ok=True)
        self.log = base / "worker.log"
        self.values = {
            "cache.directory": str(base / "cache"), "cache.capacity": "1GiB",
            "volume.uid": os.getuid(), "volume.gid": os.getgid(), **values,
        }  # fmt: skip
        self.config: MountConfig = load_config(None, self.values)
        self.fd: int | None = None
        self.session: dict[str, Any] | None = None
        self.started: list[Worker] = []
        volume = uuid.uuid4().hex[:16]
        state_directory(self.config, volume).mkdir(parents=True)
        self.spec = WorkerSpec(
            volume,
            str(self.root),
            str(base / "control.sock"),
            self.config.to_spec().decode(),
            dict(labels),
            governs,
        )

    def start(self, session: dict[str, Any] | None = None, *, bound: bool = False) -> Worker:
        worker = Worker(self, session, bound)
        self.started.append(worker)
        return worker

    def use(self, config: str) -> None:
        """Start the next worker with this configuration."""
        self.spec = replace(self.spec, config=config)

    def keep(self, fd: int, session: dict[str, Any]) -> None:
        if self.fd is not None:
            os.close(self.fd)
        self.fd, self.session = fd, session

    def changed(self, **values: object) -> str:
        """The configuration with other values, as an update has it; None takes one out."""
        keys = {name.replace("__", "."): value for name, value in values.items()}
        wanted = {key: value for key, value in {**self.values, **keys}.items() if value is not None}
        return load_config(None, wanted).to_spec().decode()

    def unmount(self) -> None:
        mounts.unmount(str(self.root), lazy=True)

    def clear(self) -> None:
        """End everything, whatever state it is in."""
        for worker in self.started:
            if worker.process.poll() is None:
                worker.process.kill()
            if worker.process.pid in live_pids:
                worker.ended()
        found = mounts.find(str(self.root))
        if found is not None:
            mounts.abort(found.connection)
            self.unmount()
        if self.fd is not None:
            os.close(self.fd)
