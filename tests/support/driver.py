"""The driver's processes as they run on a node, in a directory of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from tests.support import servers
from tests.support.leaks import mount_points
from tests.support.servers import S3Server

START_TIMEOUT = 30.0
END_TIMEOUT = 40.0

# A node service that waits for the end of its predecessor for as long as a test takes.
_PATIENT = """
import functools, runpy
from csi_slayer.csi import processes
processes.sole = functools.partial(processes.sole, timeout=300.0)
runpy.run_module("csi_slayer.cli", run_name="__main__", alter_sys=True)
"""

Role = Literal["keeper", "node", "controller"]


class Driver:
    """``csi-slayer keeper``, ``node`` and ``controller`` with one configuration.

    ``directory`` should be short: sockets are below it.
    """

    def __init__(self, directory: Path, **sections: Mapping[str, Any]) -> None:
        self.directory = directory
        self.kubelet = directory / "kubelet"
        self.run = self.kubelet / "plugins" / "csi.slayerfs.io"
        self.socket = self.run / "csi.sock"
        self.controller_socket = directory / "ctl.sock"
        self.keeper_socket = self.run / "keeper.sock"
        self.log = directory / "driver.log"
        self._processes: dict[Role, subprocess.Popen[bytes]] = {}
        self.sections: dict[str, dict[str, Any]] = {
            "node": {
                "name": "node-1",
                "kubelet_directory": str(self.kubelet),
                "run_directory": str(self.run),
                "events": False,
            },
            "controller": {"socket": str(self.controller_socket)},
            "cache": {"directory": str(directory / "cache"), "capacity": "1GiB"},
        }
        for name, values in sections.items():
            self.sections.setdefault(name, {}).update(values)
        (self.kubelet / "plugins_registry").mkdir(parents=True)
        (self.kubelet / "pods").mkdir()

    def start(self, *roles: Role) -> None:
        """Start them, and wait until each can be asked. Raises RuntimeError with the log's end."""
        for role in roles:
            # As in a cluster, where each has an address of its own: one endpoint here.
            sections = self.sections if role == "node" else {**self.sections, "metrics": {}}
            self.config(role).write_text(yaml.safe_dump(sections))
            self._start(role)

    def config(self, role: Role) -> Path:
        """The file that it is, or will be, started with."""
        return self.directory / f"{role}.yaml"

    def _start(self, role: Role, program: Sequence[str] = ("-m", "csi_slayer.cli")) -> None:
        if role == "keeper":
            arguments = ["keeper", "--socket", str(self.keeper_socket)]
        else:
            arguments = [role, "--config", str(self.config(role))]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes[role] = process
        servers.live_pids.add(process.pid)
        sockets = {
            "keeper": self.keeper_socket,
            "node": self.socket,
            "controller": self.controller_socket,
        }
        deadline = time.monotonic() + START_TIMEOUT
        while not _listens(sockets[role]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{role} did not start:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def pid(self, role: Role) -> int:
        return self._processes[role].pid

    def end(self, role: Role, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status. Raises TimeoutExpired if it does not end."""
        process = self._processes.pop(role)
        process.send_signal(how)
        try:
            return process.wait(END_TIMEOUT)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            servers.live_pids.discard(process.pid)

    @contextlib.contextmanager
    def succeeded(self, role: Role) -> Iterator[None]:
        """Another process of this role is there as well; at the end of the block the first one is
        ended in good order, and the other one carries on."""
        first = self._processes.pop(role)
        self._start(role, ("-c", _PATIENT))
        second = self._processes.pop(role)
        self._processes[role] = first
        try:
            yield
        finally:
            self.end(role)
            self._processes[role] = second

    def close(self) -> None:
        """End all of them in good order, and unmount what they have left."""
        try:
            for role in ("controller", "node", "keeper"):
                if role in self._processes:
                    self.end(role)
        finally:
            for point in sorted(mount_points(self.directory), reverse=True):
                subprocess.run(["umount", "-l", str(point)], check=False, timeout=20)


def _listens(path: Path) -> bool:
    """Whether a process serves the socket: the file of a killed one stays."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            try:
                probe.connect(str(path))
            except OSError:
                continue
            return True
    return False


def s3_section(server: S3Server, bucket: str, secret_directory: Path) -> dict[str, Any]:
    """The driver's store, with its identity as Kubernetes mounts a Secret."""
    secret_directory.mkdir()
    for name, value in (
        ("access_key_id", server.access_key),
        ("secret_access_key", server.secret_key),
    ):
        fd = os.open(secret_directory / name, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, value.encode())
        os.close(fd)
    return {
        "endpoint": server.endpoint,
        "region": server.region,
        "bucket": bucket,
        "secret_directory": str(secret_directory),
    }


@contextlib.contextmanager
def driver(
    directory: Path,
    only: Sequence[Role] = ("keeper", "controller", "node"),
    **sections: Mapping[str, Any],
) -> Iterator[Driver]:
    """All three processes, or ``only`` these, running inside the block."""
    made = Driver(directory, **sections)
    try:
        made.start(*only)
        yield made
    finally:
        made.close()
