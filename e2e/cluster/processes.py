"""Processes that outlive the command which started them, each found again by pid and start time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 120.0
"""Seconds until a component must be ready: the API server's start on two busy cores takes 20."""
STOP_TIMEOUT = 20.0
KILL_TIMEOUT = 60.0
"""Seconds after SIGKILL: it cannot be refused, but a busy machine frees the memory first."""
_POLL = 0.1


class ClusterError(Exception):
    """What went wrong, in words for the one who started it."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process. ``start_time`` (clock ticks since boot) tells it from a later one."""

    pid: int
    start_time: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None if there is none, or only its zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        # proc(5): the state is field 3, starttime field 22; the name in field 2 may hold anything.
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def signal(self, number: int) -> None:
        """No error if it has ended."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float) -> bool:
        """Whether it ended in time."""
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        self.reap()
        return True

    def reap(self) -> None:
        """Take its exit status, if it is a child of this very command and has ended."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


@dataclass(frozen=True, slots=True)
class Service:
    """A program of the cluster: what it is started with. Its log is appended to over restarts."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]


class Services:
    """Start, find and end services: ``<name>.json`` in ``pids``, ``<name>.log`` in ``logs``."""

    def __init__(self, pids: Path, logs: Path) -> None:
        self._pids = pids
        self._logs = logs

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def find(self, name: str) -> Process | None:
        """The running process of a service."""
        try:
            values = json.loads((self._pids / f"{name}.json").read_text())
        except FileNotFoundError:
            return None
        process = Process(values["pid"], values["start_time"])
        if process.alive():
            return process
        process.reap()
        return None

    def names(self) -> list[str]:
        """Services that were started and not ended, in the order of their start."""
        files = self._pids.glob("*.json")
        return [file.stem for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]

    def start(self, service: Service) -> Process:
        """Start it if it does not run; does not wait until it is ready."""
        running = self.find(service.name)
        if running is not None:
            return running
        self._pids.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(service.name).open("ab") as log:
            child = subprocess.Popen(
                list(service.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(service.environment),
                cwd="/",
                start_new_session=True,
            )
        process = Process.of(child.pid)
        if process is None:
            raise ClusterError(f"{service.name} ended at once:\n{self.tail(service.name)}")
        path = self._pids / f"{service.name}.json"
        path.write_text(json.dumps({"pid": process.pid, "start_time": process.start_time}))
        # The command ends before the service does; nobody is to wait for it.
        child.returncode = 0
        return process

    def wait(self, service: Service, timeout: float = START_TIMEOUT) -> None:
        """Until it is ready. Raises ClusterError with the end of its log."""
        deadline = time.monotonic() + timeout
        while not service.ready():
            gone = self.find(service.name) is None
            if gone or time.monotonic() > deadline:
                what = "ended" if gone else f"is not ready after {timeout:.0f} s"
                raise ClusterError(f"{service.name} {what}; its log:\n{self.tail(service.name)}")
            time.sleep(_POLL)

    def send(self, name: str, number: int) -> None:
        """No error if it does not run."""
        process = self.find(name)
        if process is not None:
            process.signal(number)

    def stop(self, name: str, number: int = signal.SIGTERM, timeout: float = STOP_TIMEOUT) -> None:
        """End it, by force if it does not end in time; no error if it does not run."""
        process = self.find(name)
        if process is not None:
            process.signal(number)
            process.signal(signal.SIGCONT)  # one that is paused would not notice
            if not process.wait(timeout):
                process.signal(signal.SIGKILL)
                if not process.wait(KILL_TIMEOUT):
                    raise ClusterError(f"{name} (pid {process.pid}) does not end on SIGKILL")
        (self._pids / f"{name}.json").unlink(missing_ok=True)

    def tail(self, name: str, lines: int = 30) -> str:
        try:
            text = self.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])
