"""Starting workers by the template process, which is started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from csi_slayer.errors import MountFailed
from csi_slayer.node.remains import SETTLE, is_all_that_is_left
from csi_slayer.observability import get_logger
from csi_slayer.worker import channel

log = get_logger(__name__)

FORK_TIMEOUT = 20.0
"""Seconds that a template may take to answer: a new one has to import everything first."""

ATTEMPTS = 3
"""Templates that are tried for one worker."""

STATUS_TIMEOUT = 1.0
"""Seconds within which the template says how a worker ended that has ended."""


class Process:
    """A worker process. Closed by :meth:`close` once :meth:`wait` has returned."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd
        loop = asyncio.get_running_loop()
        self.status: asyncio.Future[int] = loop.create_future()
        """As subprocess has it; set if the template lives to tell."""
        self._gone = asyncio.Event()
        self._closing = False
        loop.add_reader(pidfd, self._on_gone)

    async def wait(self) -> int | None:
        """Until it has ended; how, where anybody knows."""
        while not self._gone.is_set():
            try:
                async with asyncio.timeout(SETTLE):
                    await self._gone.wait()
            except TimeoutError:
                if is_all_that_is_left(self.pid):
                    return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_TIMEOUT):
                return await asyncio.shield(self.status)
        return None

    def kill(self) -> None:
        """End it by force. It keeps nothing in memory alone that a successor needs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """What is left of it (:mod:`csi_slayer.node.remains`) is still waited for, and reaped."""
        self._closing = True
        if self._gone.is_set():
            os.close(self._pidfd)

    def _on_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._gone.set()
        self._reap()
        if self._closing:
            os.close(self._pidfd)

    def _reap(self) -> None:
        try:
            # Ours if its template is dead and this process is the next reaper (prctl(2),
            # PR_SET_CHILD_SUBREAPER).
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return
        if result is not None and not self.status.done():
            ended = result.si_code == os.CLD_EXITED
            self.status.set_result(result.si_status if ended else -result.si_status)


class Launcher:
    """Owns the template. ``launch`` may be called any number of times at once."""

    def __init__(self) -> None:
        self.templates = 0
        """How many there have been."""
        self._template: _Template | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Have a template ready, so that the next worker need not wait for its imports. Raises
        MountFailed if there is none after a while."""
        try:
            async with asyncio.timeout(FORK_TIMEOUT):
                await (await self._current()).ready.wait()
        except TimeoutError:
            raise MountFailed("the process that workers are forked from does not start") from None

    async def close(self) -> None:
        """End the template; workers live on."""
        if self._template is not None:
            await self._template.close()
            self._template = None

    async def launch(self, end: socket.socket, keep: Sequence[int] = ()) -> Process:
        """A new worker with ``end`` as its channel, that holds the descriptors ``keep`` as well.

        Raises MountFailed.
        """
        for _ in range(ATTEMPTS):
            template = await self._current()
            process = await template.fork((end.fileno(), *keep))
            if process is not None:
                return process
            log.error("template_lost", pid=template.pid)
        raise MountFailed("no worker process could be started: see the node service's log")

    async def _current(self) -> _Template:
        async with self._starting:
            if self._template is None or self._template.dead:
                if self._template is not None:
                    await self._template.close()
                self._template = _Template()
                self.templates += 1
            return self._template


class _Template:
    """One template process."""

    def __init__(self) -> None:
        self._end, theirs = channel.pair()
        self._end.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "csi_slayer.node.template", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        self.pid = self._process.pid
        self.dead = False
        self.ready = asyncio.Event()
        """Set once it has loaded everything, or is dead."""
        self._forks = 0
        self._waiting: dict[int, asyncio.Future[Process | None]] = {}
        self._processes: dict[int, Process] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._end.fileno(), self._readable)

    async def fork(self, fds: Sequence[int]) -> Process | None:
        """None if the template is dead, or is ended because it does not answer."""
        self._forks += 1
        number = self._forks
        answer: asyncio.Future[Process | None] = self._loop.create_future()
        self._waiting[number] = answer
        try:
            channel.send(self._end, {"fork": number}, tuple(fds))
            async with asyncio.timeout(FORK_TIMEOUT):
                return await answer
        except OSError:  # TimeoutError is one
            self._lost()
            return None
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        self._lost()
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    def _readable(self) -> None:
        try:
            received = channel.receive(self._end)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._lost()
            return
        message, fds = received
        if "ready" in message:
            self.ready.set()
        elif "fork" in message:
            process = Process(message["pid"], fds[0])
            self._processes[process.pid] = process
            answer = self._waiting.get(message["fork"])
            if answer is not None and not answer.done():
                answer.set_result(process)
            else:
                # Nobody waits for it any more.
                process.kill()
                process.close()
                self._processes.pop(process.pid, None)
        elif "exited" in message:
            gone = self._processes.pop(message["exited"], None)
            if gone is not None and not gone.status.done():
                gone.status.set_result(message["status"])

    def _lost(self) -> None:
        if self.dead:
            return
        self.dead = True
        self.ready.set()
        self._loop.remove_reader(self._end.fileno())
        self._end.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)
