"""Programs of ours from a process that has imported them.

To start Python and import everything takes longer than what most commands do. Here a program is
forked from a process that has done so: with its own arguments, environment and output, it runs and
ends as usual. Messages on the socket between are those of :mod:`csi_slayer.worker.channel`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from csi_slayer.worker import channel
from tests.support.servers import live_pids

# No module is run by Python: usage would name it.
_MAIN = f"from {__name__} import main; main()"


class Forked:
    """A program that was started; much like Popen."""

    def __init__(self, args: Sequence[str], said: socket.socket) -> None:
        self.args = args
        self._said = said
        self._status: int | None = None
        self.pid = self._hear("pid")

    def _hear(self, what: str) -> int:
        received = channel.receive(self._said)
        assert received is not None, "the process that programs are forked from has ended"
        return int(received[0][what])

    def _end(self, timeout: float) -> int:
        if self._status is None:
            self._said.settimeout(timeout)
            self._status = self._hear("status")
            self._said.close()
        return self._status

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit status, negative if a signal ended it. Raises TimeoutExpired."""
        try:
            return self._end(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(self.args, timeout) from None

    def poll(self) -> int | None:
        """The same, or None while it runs."""
        try:
            return self._end(0)
        except BlockingIOError:
            return None

    def kill(self) -> None:
        """No error if it has ended."""
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Preloaded:
    """The process that programs are forked from."""

    def __init__(self, function: str) -> None:
        self._socket, theirs = channel.pair()
        self._turn = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno()), function],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        live_pids.add(self._process.pid)
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def start(
        self, args: Sequence[str], env: Mapping[str, str], out: int = 1, err: int = 2,
        fds: Sequence[int] = (),
    ) -> Forked:  # fmt: skip
        """Start it with ``args`` as its sys.argv, and the numbers that ``fds`` have there."""
        ours, theirs = channel.pair()
        with theirs:
            message = {"args": list(args), "env": dict(env)}
            with self._turn:
                channel.send(self._socket, message, (theirs.fileno(), out, err, *fds))
        return Forked(args, ours)

    def run(
        self, args: Sequence[str], env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with the output captured. Raises TimeoutExpired."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            started = self.start(args, env, out.fileno(), err.fileno())
            try:
                status = started.wait(timeout)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait(timeout)
                raise
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(args, status, out.read(), err.read())


@functools.cache
def preloaded(function: str) -> Preloaded:
    """The one of this session for a program, named ``module:function``; started when needed."""
    return Preloaded(function)


def main() -> None:
    """Of the process; its arguments are the socket's number and the function."""
    module, _, name = sys.argv[2].partition(":")
    function = getattr(importlib.import_module(module), name)
    gc.freeze()
    end = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while (received := channel.receive(end)) is not None:
        message, fds = received
        if os.fork() == 0:
            end.close()
            _run(function, message, fds)
            return
        for fd in fds:
            os.close(fd)


def _run(function: Callable[[], object], message: dict[str, Any], fds: list[int]) -> None:
    """Fork the program, wait for it, and say how it ended."""
    said, out, err, *rest = fds
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(said)
        for number, fd in ((1, out), (2, err)):
            os.dup2(fd, number)
            os.close(fd)
        os.environ.clear()
        os.environ.update(message["env"])
        sys.argv = [*message["args"], *map(str, rest)]
        function()
        return
    for fd in (out, err, *rest):
        os.close(fd)
    with socket.socket(fileno=said) as answer:
        channel.send(answer, {"pid": pid})
        _pid, status = os.waitpid(pid, 0)
        try:
            channel.send(answer, {"status": os.waitstatus_to_exitcode(status)})
        except OSError:
            pass  # nobody asks any more
    os._exit(0)
