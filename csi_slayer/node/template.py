"""``python -m csi_slayer.node.template FD``: a process that has loaded all of a worker's code.

Workers are forked from it, so they share that memory and start in a moment. It has one thread, no
event loop and no gRPC, none of which would survive a fork. FD is a socket to the node service,
which is told ``{"ready": 1}`` once everything is loaded. A request ``{"fork": n}`` comes with the
worker's channel and whatever descriptors it is to hold as well; the answer is ``{"fork": n, "pid":
pid}`` with a pidfd; ``{"exited": pid, "status": s}`` follows when a worker ends (negative: the
signal that ended it). When the node service is gone the template ends; it ends no worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from csi_slayer.worker import channel
from csi_slayer.worker.channel import FAILED
from csi_slayer.worker.cores import forbid_core_dumps
from csi_slayer.worker.preload import preload

PROCESS_NAME = b"slayer-worker"
"""What ps and top show; at most 15 bytes (prctl(2), PR_SET_NAME)."""

OOM_SCORE = 200
"""How much rather than the node service a worker is ended when memory is short: it comes back."""

_PR_SET_NAME = 15


class Template:
    """Forks on request. ``end`` is the socket to the node service."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Until the node service is gone. In a forked child: until the worker ends."""
        with contextlib.suppress(OSError):  # the node service is gone already
            channel.send(self._end, {"ready": 1})
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                for key, _events in selector.select():
                    if key.fileobj is not self._end:
                        self._reap()
                        continue
                    try:
                        received = channel.receive(self._end)
                    except ConnectionResetError:
                        received = None  # it was killed with something unread
                    if received is None:
                        return 0
                    message, fds = received
                    if self._fork(message["fork"], fds):
                        selector.close()
                        return self._become_worker(fds)

    def _fork(self, number: int, fds: Sequence[int]) -> bool:
        """True in the child."""
        pid = os.fork()
        if pid == 0:
            return True
        pidfd = os.pidfd_open(pid)
        with contextlib.suppress(OSError):  # the node service is gone, and so the worker will be
            channel.send(self._end, {"fork": number, "pid": pid}, (pidfd,))
        for fd in (pidfd, *fds):
            os.close(fd)
        return False

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):  # the node service is gone
                channel.send(self._end, {"exited": pid, "status": code})

    def _become_worker(self, fds: Sequence[int]) -> int:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._end.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, PROCESS_NAME, 0, 0, 0)
        _be_ended_first()
        from csi_slayer.worker.__main__ import run_worker

        return run_worker(socket.socket(fileno=fds[0]))


def _be_ended_first() -> None:
    """When memory is short, rather a worker than the node service."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/oom_score_adj", "r+") as file:
        score = min(1000, int(file.read()) + OOM_SCORE)
        file.seek(0)
        file.write(str(score))


def main() -> int:
    forbid_core_dumps()
    end = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(end.fileno(), False)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal's: the node service says what follows
    preload()
    return Template(end).run()


if __name__ == "__main__":
    # A worker must not run what the interpreter runs at its end for the template's objects.
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else FAILED
    except BaseException:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
