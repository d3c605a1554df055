"""This project's mount, by its command line as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import interrupts, mounts
from bench.errors import BenchError
from bench.rows import PLAIN, SLAYER
from bench.targets.base import Mounted, MountOptions, Place
from bench.targets.scratch import Scratch, scratch
from csi_slayer.cli import control
from csi_slayer.errors import SlayerError
from csi_slayer.node import registry

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT = 90.0
_DRAIN_SECONDS = 60
_GRACE = 120.0  # the command waits as long again for the worker's end


class SlayerFS:
    """With every kernel capability, or with none: the way a kernel of some years ago is."""

    uploads_at_close = True

    def __init__(self, place: Place, *, capabilities: bool = True) -> None:
        self._place = place
        self._capabilities = capabilities
        self.name = SLAYER if capabilities else PLAIN

    @contextmanager
    def mounted(self, options: MountOptions) -> Iterator[Mounted]:
        with scratch(self._place.work, self.name) as paths:
            try:
                with interrupts.deferred():
                    self._mount(options, paths)
                yield SlayerMount(paths.point)
            finally:
                self._unmount(paths.point)

    def _mount(self, options: MountOptions, paths: Scratch) -> None:
        place = self._place
        command = [
            "mount", f"s3://{place.bucket}/{options.prefix}", str(paths.point),
            "--endpoint", place.endpoint,
            "--region", place.region,
            "--cache-dir", str(paths.cache),
            "--cache-capacity", str(options.cache_bytes),
            "--metadata-ttl", "1h",
            "--durability", options.durability,
            *(["--read-only"] if options.read_only else []),
            *(["--option", "volume.open_wait=1m"] if options.whole_files else []),
            *([] if self._capabilities else ["--option", "fuse.disable=all"]),
        ]  # fmt: skip
        try:
            self.run(command, _START_TIMEOUT)
        except BenchError as error:
            raise BenchError(f"{error} {_log_tail(paths)}") from None
        if paths.point not in mounts.current():
            raise BenchError("the command ended without an error, but nothing is mounted")

    def _unmount(self, point: Path) -> None:
        if point not in mounts.current():
            left = registry.find(str(point))  # a mount that failed half-way
            if left is not None:
                _kill(left)
            return
        try:
            self.run(["umount", str(point), "--timeout", str(_DRAIN_SECONDS)],
                     _DRAIN_SECONDS + _GRACE)  # fmt: skip
        finally:
            entry = registry.find(str(point))
            mounts.force(point)
            if entry is not None:
                _kill(entry)
        if entry is not None:
            raise BenchError(f"unmounted, but uploads did not end within {_DRAIN_SECONDS} s")

    def run(self, arguments: list[str], timeout: float) -> str:
        """The standard output of a csi-slayer command. Raises BenchError if it fails."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(_ROOT),
            "AWS_ACCESS_KEY_ID": self._place.access_key,
            "AWS_SECRET_ACCESS_KEY": self._place.secret_key,
        }
        command = [sys.executable, "-m", "csi_slayer.cli", *arguments]
        try:
            answer = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=environment,
                cwd=_ROOT,
                start_new_session=True,  # a Ctrl-C is this process's to handle
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"csi-slayer {arguments[0]} took over {timeout:.0f} s") from None
        if answer.returncode:
            said = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
            raise BenchError(f"csi-slayer {arguments[0]}: {said[-1] if said else 'failed'}")
        return answer.stdout


def _kill(entry: registry.Mounted) -> None:
    """End a mount that should have ended: supervisor and worker are one process group."""
    try:
        os.killpg(entry.supervisor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    registry.remove(entry.volume)


def _log_tail(paths: Scratch) -> str:
    """The last lines that workers of this mount logged."""
    lines = [
        line
        for log in paths.cache.glob("volumes/*/worker.log")
        for line in log.read_text(errors="replace").splitlines()
    ]
    return " / ".join(lines[-3:])[-400:]


@dataclass(frozen=True, slots=True)
class SlayerMount:
    path: Path

    def pid(self) -> int:
        entry = registry.find(str(self.path))
        if entry is None:
            raise BenchError("the mount is not registered")
        try:
            return int(next(control.ask(entry, "status"))["pid"])
        except SlayerError as error:
            raise BenchError(str(error)) from None
