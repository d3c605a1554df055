"""Compiles and runs the load generator (load.c)."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.machine import MB

_SOURCE = Path(__file__).with_name("load.c")
_END_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Work:
    """What one command did in its timed part."""

    operations: int
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    @property
    def throughput(self) -> float:
        """MB (1e6 bytes) per second."""
        return self.bytes / MB / self.seconds


def compile_load(directory: Path) -> Path:
    """Build the generator into ``directory``. Raises BenchError without a C compiler.

    There is no substitute in Python: it would be slower than what it measures, and so make every
    ratio look good.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("no C compiler found: install gcc and libc6-dev")
    binary = directory / "load"
    command = [compiler, "-O2", "-pthread", "-o", str(binary), str(_SOURCE)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"the load generator does not compile: {answer.stderr[-300:]}")
    return binary


@dataclass(frozen=True, slots=True)
class Load:
    """Runs commands on mounts. ``unblock`` frees a process that hangs in a dead file system."""

    binary: Path
    unblock: Callable[[], object]
    timeout: float

    def run(self, command: str, *arguments: object) -> Work:
        """Raises BenchError if the command fails or takes longer than ``timeout`` seconds."""
        output, _ = self._run([str(self.binary), command, *map(str, arguments)])
        operations, count, seconds = output.split()
        return Work(int(operations), int(count), float(seconds))

    def remove(self, path: Path) -> None:
        self._run(["rm", "-f", str(path)])

    def find(self, directory: Path, seconds: float) -> Work:
        """find(1) below ``directory``, again and again until the time is over."""
        found, spent = 0, 0.0
        while spent < seconds:
            output, one = self._run(["find", str(directory), "-type", "f"])
            found += output.count("\n")
            spent += one
        return Work(found, 0, spent)

    def _run(self, command: list[str]) -> tuple[str, float]:
        started = time.perf_counter()
        # A session of its own: a Ctrl-C reaches this process first, which then ends it in order.
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=self.timeout)
        except BaseException as reason:
            self._end(process)
            if isinstance(reason, subprocess.TimeoutExpired):
                raise BenchError(f"took longer than {self.timeout:.0f} s") from None
            raise
        if process.returncode:
            raise BenchError(errors.strip()[-300:] or f"ended with {process.returncode}")
        return output, time.perf_counter() - started

    def _end(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            self.unblock()
            process.wait(_END_TIMEOUT)
