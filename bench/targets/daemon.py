"""Peers that stay in the foreground: started, waited for, unmounted, waited for again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import mounts
from bench.errors import BenchError
from bench.targets.scratch import Scratch

_START_TIMEOUT = 30.0
_END_TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class DaemonMount:
    """A mount served by one child process."""

    path: Path
    process: subprocess.Popen[bytes]

    def pid(self) -> int:
        if self.process.poll() is not None:
            raise BenchError(f"the daemon ended with {self.process.returncode}")
        return self.process.pid


@contextmanager
def daemon(
    command: Sequence[str], environment: Mapping[str, str], paths: Scratch
) -> Iterator[DaemonMount]:
    """Raises BenchError with the end of the daemon's log if it does not mount."""
    with paths.log.open("wb") as log:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        try:
            mounts.wait_until_mounted(paths.point, lambda: process.poll() is None, _START_TIMEOUT)
        except BenchError as error:
            raise BenchError(f"{error}: {paths.tail()}") from None
        yield DaemonMount(paths.point, process)
    finally:
        mounts.unmount(paths.point)
        try:
            process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
