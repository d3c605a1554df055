"""Keeping one volume mounted: start its worker, hold its /dev/fuse descriptor, start it again.

The supervisor holds a duplicate of the descriptor and the parameters negotiated with the kernel,
so the connection outlives a worker that dies: programs wait instead of seeing an error, and the
next worker takes over. It never touches a path inside the mount. Standard library only: asyncio,
which the node service's supervision (:mod:`csi_slayer.node.running`) is made of, would be half of
its memory. What to do when a worker ends is decided by the same :mod:`csi_slayer.node.lifecycle`.

A worker whose engine cannot hand its connection over sends no descriptor: the mount dies with it,
and the next worker unmounts what is left and mounts anew. The messages are described in
:mod:`csi_slayer.worker.channel`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from csi_slayer.fuse.mount import is_connected
from csi_slayer.node.lifecycle import CannotStart, Lifecycle
from csi_slayer.node.remains import SETTLE, is_all_that_is_left
from csi_slayer.worker import channel

__all__ = ["CannotStart", "Supervisor", "ignore_terminal_signals"]

LOOK_AFTER = 5.0
"""Seconds between two calls of ``look_after``."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    end: socket.socket
    born: float


class _Abandoned(Exception):
    """The volume is, while no worker is there."""


class Supervisor:
    """``spec`` is what the worker needs, secrets included: it goes through a socket only.

    ``keep``: descriptors that each worker is to hold as well, such as the volume's lock.
    ``look_after`` is called every now and then once the volume is mounted.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        log_fd: int,
        ready: Callable[[int], None],
        keep: tuple[int, ...] = (),
        look_after: Callable[[], None] = lambda: None,
    ) -> None:
        self._look_after = look_after
        self._life = Lifecycle(spec)
        self._log_fd = log_fd
        self._ready = ready
        self._keep_open = keep
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up = False
        self._abandoned = False
        self._resting = False

    @property
    def restarts(self) -> int:
        return self._life.restarts

    def run(self) -> int:
        """Until the volume is unmounted. Raises CannotStart if it never was mounted."""
        try:
            while True:
                worker = self._start()
                try:
                    status = self._watch(worker)
                finally:
                    worker.end.close()
                if self._abandoned:
                    return 0
                pause = self._life.died(status, time.monotonic() - worker.born)
                if self._given_up:
                    raise CannotStart("it was told to end before it was mounted", "UNAVAILABLE")
                if pause is None:
                    return 0
                self._resting = True
                time.sleep(pause)
                self._resting = False
        except _Abandoned:
            return 0
        finally:
            self._life.let_go()

    def give_up(self) -> bool:
        """Called from a signal handler: if nothing is mounted yet, end the worker, so that
        :meth:`run` says CannotStart; False if there is a mount."""
        if self._life.mounted:
            return False
        self._given_up = True  # that it has mounted may be on its way to us
        if self._process is not None:
            self._process.kill()
        return True

    @property
    def is_unmounted(self) -> bool:
        """Whether the connection that we hold has ended; that of one that cannot be handed over
        nobody knows."""
        fd = self._life.fuse_fd
        return fd is not None and not is_connected(fd)

    @property
    def connection(self) -> int | None:
        """The number of the connection; None while a worker mounts anew."""
        return (self._life.session or {}).get("connection")

    def abandon(self) -> None:
        """Called from a signal handler once the volume is unmounted: end the worker and start no
        other. What it had still to upload stays staged for the next mount."""
        self._abandoned = True
        if self._process is not None:
            self._process.kill()
        if self._resting:
            raise _Abandoned  # a handler that returns does not end a sleep

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
        if self._abandoned or self._given_up:
            process.kill()
        message, fds = self._life.first_message()
        try:
            channel.send(ours, message, fds)
        except OSError:
            pass  # it died already: the watch sees its status
        return _Worker(process, ours, time.monotonic())

    def _watch(self, worker: _Worker) -> int | None:
        """Handle the worker's messages until it ends; returns its status, if there is one yet."""
        worker.end.settimeout(LOOK_AFTER)
        while True:
            try:
                received = channel.receive(worker.end)
            except TimeoutError:
                if self._life.announced:
                    self._look_after()
                continue
            except (OSError, ValueError):
                received = None  # killed with a message unread, or in the middle of one
            if received is None:
                break
            message, fds = received
            self._life.heard(message, fds)
            if "ready" in message and not self._life.announced and not self._given_up:
                self._life.announced = True
                self._ready(worker.process.pid)
        return _end_of(worker.process)


def _end_of(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the end of a worker that has closed its channel, but for nobody's request."""
    while True:
        try:
            return process.wait(SETTLE)
        except subprocess.TimeoutExpired:
            if is_all_that_is_left(process.pid):
                # It goes once its successor serves, and is reaped then. Without a thread for that
                # it stays as an entry in the table of processes.
                with contextlib.suppress(RuntimeError):
                    threading.Thread(target=process.wait, name="reaper", daemon=True).start()
                return None


def ignore_terminal_signals() -> None:
    """A supervisor in the background ends with its mount, not with the terminal."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
