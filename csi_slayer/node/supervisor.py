"""Keeping one volume mounted: start its worker, hold its /dev/fuse descriptor, start it again.

The supervisor holds a duplicate of the descriptor and the parameters negotiated with the kernel,
so the connection outlives a worker that dies: programs wait instead of seeing an error, and the
next worker takes over. It never touches a path inside the mount. Standard library only.

A worker whose engine cannot hand its connection over sends no descriptor: the mount dies with it,
and the next worker unmounts what is left and mounts anew.

Messages from the worker: ``{"session": {...}}`` with the descriptor once mounted, ``{"session":
null}`` when it is about to unmount what is left, ``{"ready": 1}``, ``{"error": text}`` when it
cannot start. To the worker: ``{"spec": {...}, "session": ...}`` with
the descriptor when there is one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from csi_slayer.worker import channel
from csi_slayer.worker.channel import UNMOUNTED

BACKOFF_FIRST, BACKOFF_MAX = 0.05, 10.0
"""Pause before a worker is started again, seconds; doubled each time it dies young."""

YOUNG = 30.0
"""A worker that lived longer than this is started again at once."""


class CannotStart(Exception):
    """The worker said why; the text is fit for the user."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    end: socket.socket
    born: float


class Supervisor:
    """``spec`` is what the worker needs, secrets included: it goes through a socket only.

    ``keep``: descriptors that each worker is to hold as well, such as the volume's lock.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        log_fd: int,
        ready: Callable[[int], None],
        keep: tuple[int, ...] = (),
    ) -> None:
        self._spec = spec
        self._log_fd = log_fd
        self._ready = ready
        self._keep_open = keep
        self._process: subprocess.Popen[bytes] | None = None
        self._fuse_fd: int | None = None
        self._session: dict[str, Any] | None = None
        self._mounted = False
        self._announced = False
        self._pause = BACKOFF_FIRST
        self.restarts = 0

    def run(self) -> int:
        """Until the volume is unmounted. Raises CannotStart if it never was mounted."""
        while True:
            worker = self._start()
            try:
                status = self._watch(worker)
            finally:
                worker.end.close()
            if status == UNMOUNTED:
                return 0
            if not self._mounted:
                raise CannotStart(
                    f"the worker ended with status {status} before it mounted: see its log"
                )
            self.restarts += 1
            if time.monotonic() - worker.born > YOUNG:
                self._pause = BACKOFF_FIRST
            time.sleep(self._pause)
            self._pause = min(BACKOFF_MAX, self._pause * 2)

    def give_up(self) -> bool:
        """Called from a signal handler: if nothing is mounted yet, end the worker, so that
        :meth:`run` says CannotStart; False if there is a mount."""
        if self._mounted:
            return False
        if self._process is not None:
            self._process.kill()
        return True

    def _start(self) -> _Worker:
        ours, theirs = channel.pair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "csi_slayer.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno(), *self._keep_open],
                stdin=subprocess.DEVNULL,
                stdout=self._log_fd,
                stderr=self._log_fd,
            )
        self._process = process
        fds = () if self._fuse_fd is None else (self._fuse_fd,)
        message = {"spec": self._spec, "session": self._session, "restarts": self.restarts}
        try:
            channel.send(ours, message, fds)
        except OSError:
            pass  # it died already: the watch sees its status
        return _Worker(process, ours, time.monotonic())

    def _watch(self, worker: _Worker) -> int:
        """Handle the worker's messages until it ends; returns its status."""
        error: str | None = None
        while True:
            try:
                received = channel.receive(worker.end)
            except (OSError, ValueError):
                received = None  # killed with a message unread, or in the middle of one
            if received is None:
                break
            message, fds = received
            if "session" in message:
                self._mounted, self._session = True, message["session"]
                if fds:
                    self._keep(fds.pop(0))
            if "error" in message:
                error = str(message["error"])
            if "ready" in message and not self._announced:
                self._announced = True
                self._ready(worker.process.pid)
            for fd in fds:
                os.close(fd)
        status = worker.process.wait()
        if error is not None and not self._announced:
            raise CannotStart(error)
        return status

    def _keep(self, fd: int) -> None:
        if self._fuse_fd is not None:
            os.close(self._fuse_fd)
        self._fuse_fd = fd


def ignore_terminal_signals() -> None:
    """A supervisor in the background ends with its mount, not with the terminal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
