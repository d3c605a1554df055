"""Real mounts for tests, made by the command line as a user would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from csi_slayer.cli.control import NoWorker, ask
from csi_slayer.fuse import mount as mounts
from csi_slayer.node import registry
from tests.support.preloaded import preloaded
from tests.support.servers import live_pids

CLI = [sys.executable, "-m", "csi_slayer.cli"]


def slayer(
    *args: str, env: dict[str, str] | None = None, check: bool = True, timeout: float = 90.0
) -> subprocess.CompletedProcess[str]:
    """Run ``csi-slayer``; with ``check`` a failure is raised with what it printed."""
    result = preloaded("csi_slayer.cli.main:app").run(
        ["csi-slayer", *args], {**os.environ, **(env or {})}, timeout
    )
    if check and result.returncode != 0:
        raise AssertionError(
            f"csi-slayer {args}: {result.returncode}\n{result.stdout}{result.stderr}"
        )
    return result


def wait_for(condition: Callable[[], object], seconds: float = 20.0, what: str = "") -> Any:
    """Poll until ``condition`` is true; returns its value. Raises AssertionError after a time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


class TestMount:
    """One mounted volume. ``root`` is the mount point; ``cache`` may be shared by several."""

    __test__ = False

    def __init__(
        self,
        url: str,
        base: Path,
        *,
        options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        cache: Path | None = None,
        name: str = "mnt",
    ) -> None:
        self.url = url
        self.root = base / name
        self.cache = cache or base / "cache"
        self.options = list(options)
        self.env = env or {}
        self.root.mkdir(exist_ok=True)

    def mount(self, *extra: str) -> TestMount:
        args = ["mount", self.url, str(self.root), "--cache-dir", str(self.cache)]
        if not any(text.startswith("cache.capacity") for text in self.options):
            args += ["--cache-capacity", "4GiB"]
        for option in self.options:
            args += ["-o", option]
        slayer(*args, *extra, env=self.env)
        live_pids.add(self.entry()["supervisor"])
        return self

    def umount(self, *extra: str) -> None:
        slayer("umount", str(self.root), *extra)

    def entry(self) -> dict[str, Any]:
        entry = registry.find(str(self.root))
        assert entry is not None, f"{self.root} is not registered"
        return asdict(entry)

    @property
    def mounted(self) -> bool:
        return mounts.find(str(self.root)) is not None

    def status(self) -> dict[str, Any]:
        (volume,) = json.loads(slayer("status", "--json", str(self.root)).stdout)
        return dict(volume)

    def worker_pid(self) -> int:
        """The worker: the supervisor's youngest child. What a killed one has left may be another
        for a moment (:mod:`csi_slayer.node.remains`)."""
        supervisor = self.entry()["supervisor"]
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return int(children[-1])

    def kill_worker(self) -> int:
        pid = int(wait_for(self.worker_pid_or_none, what="a worker"))
        os.kill(pid, signal.SIGKILL)
        return pid

    def worker_pid_or_none(self) -> int | None:
        try:
            return self.worker_pid()
        except (IndexError, FileNotFoundError):
            return None

    def wait_for_successor(self, pid: int) -> None:
        """Until another worker serves than the one that was ``pid``."""
        wait_for(lambda: self.worker_pid_or_none() not in (pid, None), what="another worker")

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Until nothing is pending."""
        wait_for(self._is_idle, seconds, "no pending uploads")

    def ask_status(self) -> dict[str, Any]:
        """As :meth:`status`, but asked from here: a command takes a second on a busy machine.

        Raises NoWorker.
        """
        entry = registry.find(str(self.root))
        assert entry is not None, f"{self.root} is not registered"
        (answer,) = ask(entry, "status")
        return answer

    def _is_idle(self) -> bool:
        try:
            return bool(self.ask_status()["pending_uploads"] == 0)
        except NoWorker:
            return False

    @property
    def log(self) -> str:
        return (Path(self.entry()["state"]) / "worker.log").read_text()

    def close(self) -> None:
        """End it whatever state it is in."""
        if self.mounted:
            result = slayer("umount", str(self.root), "--timeout", "20", check=False)
            if result.returncode != 0 or "to finish:" in result.stdout:
                slayer("umount", str(self.root), "--force", check=False)
