"""One volume's worker on a node, kept running as a task of the node service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Any, Protocol

import structlog

from csi_slayer.errors import MountFailed
from csi_slayer.node.launcher import Process
from csi_slayer.node.lifecycle import BACKOFF_MAX, CannotStart, Lifecycle
from csi_slayer.worker import channel

log = structlog.get_logger(__name__)

END_TIMEOUT = 30.0
"""Seconds that a worker may take to end after it has closed its channel."""

DRAIN_AGAIN = 60.0
"""Seconds until another worker tries to upload what one has given up."""

UPDATE_TIMEOUT = 45.0
"""Seconds that a worker may take to try new options with the store."""


class State(StrEnum):
    """``finishing``: unmounted, and what is pending is being uploaded."""

    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    FINISHING = "finishing"
    GONE = "gone"


class Launch(Protocol):
    """Starts a worker process."""

    async def launch(self, end: socket.socket, keep: Sequence[int] = ()) -> Process: ...


class Running:
    """Starts workers until the volume is unmounted and nothing is pending.

    ``keep``: descriptors that each worker holds as well. ``on_start`` is awaited with the pid of
    each new worker before it is told anything, ``on_session`` when the connection to the kernel is
    a new one, ``on_gone`` at the end.
    """

    def __init__(
        self,
        life: Lifecycle,
        launcher: Launch,
        keep: Sequence[int],
        *,
        on_start: Callable[[int], Awaitable[None]],
        on_session: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.life = life
        self.state = State.FINISHING if _is_unmounted(life) else State.STARTING
        self.process: Process | None = None
        self._launcher = launcher
        self._keep = tuple(keep)
        self._on_start = on_start
        self._on_session = on_session
        self._on_gone = on_gone
        self._end: socket.socket | None = None
        self._failure: CannotStart | None = None
        self._changed = asyncio.Condition()
        self._updates: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._updates_sent = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the worker that there is now."""
        return None if self.process is None else self.process.pid

    def kill(self) -> None:
        """End the worker there is now by force; it is started again."""
        if self.process is not None:
            self.process.kill()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def serving(self, timeout: float) -> None:
        """Until a worker serves the mount. Raises MountFailed with the worker's reason."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(
                    lambda: self.state in (State.SERVING, State.FINISHING, State.GONE)
                )
        except TimeoutError:
            raise MountFailed(
                f"the volume was not mounted within {timeout:.0f} s: see the node service's log",
                "DEADLINE_EXCEEDED",
            ) from None
        if self.state is State.GONE:
            failure = self._failure or CannotStart("the worker ended before it served")
            raise MountFailed(str(failure), failure.code)

    async def gone(self, timeout: float) -> bool:
        """Until the volume is unmounted and all is uploaded; False if that takes longer."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self.state is State.GONE)
        except TimeoutError:
            return False
        return True

    def unmounted(self) -> None:
        """The mount is gone from everywhere: workers to come have only to upload."""
        self.life.session = {"unmounted": True}
        self.life.let_go()
        if self.state is not State.GONE:
            self.state = State.FINISHING

    async def stop(self) -> None:
        """End the worker as a crash would, and start no other."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def update(self, config: str) -> None:
        """Have the worker go on with this configuration. Raises MountFailed with its reason; what
        it had is in force then."""
        if self._end is None:
            raise MountFailed("the worker is restarting: try again", "UNAVAILABLE")
        self._updates_sent += 1
        number = self._updates_sent
        answer = self._updates[number] = asyncio.get_running_loop().create_future()
        try:
            channel.send(self._end, {"update": {"id": number, "config": config}})
            async with asyncio.timeout(UPDATE_TIMEOUT):
                message = await answer
        except OSError:
            raise MountFailed("the worker did not answer: try again", "UNAVAILABLE") from None
        finally:
            del self._updates[number]
        if "error" in message:
            raise MountFailed(str(message["error"]), str(message.get("code", "INTERNAL")))
        self.life.spec = {**self.life.spec, "config": config}

    async def _run(self) -> None:
        stopped = False
        try:
            while True:
                try:
                    pause = await self._one_worker()
                except (MountFailed, OSError, RuntimeError) as error:
                    # No process, descriptor or thread to be had, which is no reason to give up
                    # what pods have mounted.
                    if not self.life.announced:
                        raise
                    log.error("worker_not_started", error=str(error), again_in=BACKOFF_MAX)
                    pause = BACKOFF_MAX
                if pause is None:
                    return
                await self._become(
                    State.FINISHING if _is_unmounted(self.life) else State.RESTARTING
                )
                await asyncio.sleep(pause)
        except CannotStart as error:
            self._failure = error
        except MountFailed as error:
            self._failure = CannotStart(str(error), error.grpc_code)
        except (OSError, RuntimeError) as error:
            self._failure = CannotStart(f"no worker could be started: {error}", "UNAVAILABLE")
        except asyncio.CancelledError:
            stopped = True  # by stop(), or with all that this process does: a successor goes on
            raise
        finally:
            self.life.let_go()
            await self._become(State.GONE)
            if not stopped:
                self._on_gone()

    async def _one_worker(self) -> float | None:
        """Start one and be there for it until it ends; what Lifecycle.died says then."""
        ours, theirs = channel.pair()
        ours.setblocking(False)
        with theirs:
            try:
                process = await self._launcher.launch(theirs, self._keep)
            except BaseException:
                ours.close()
                raise
        born = time.monotonic()
        self.process, self._end = process, ours
        try:
            await self._on_start(process.pid)
            message, fds = self.life.first_message()
            with contextlib.suppress(OSError):  # it died already
                channel.send(ours, message, fds)
            await self._listen(ours)
            async with asyncio.timeout(END_TIMEOUT):
                status = await process.wait()
        except (TimeoutError, asyncio.CancelledError) as error:
            process.kill()
            status = await process.wait()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._forget(ours)
            process.close()
        if self.life.left:
            log.error("uploads_left", keys=self.life.left, again_in=DRAIN_AGAIN)
            self.unmounted()
            self.life.restarts += 1
            return DRAIN_AGAIN
        pause = self.life.died(status, time.monotonic() - born)
        if pause is not None:
            log.warning("worker_died", status=status, restarts=self.life.restarts, pause=pause)
        return pause

    def _forget(self, end: socket.socket) -> None:
        self.process = self._end = None
        end.close()
        for answer in self._updates.values():
            if not answer.done():
                answer.set_result({"error": "the worker died: try again", "code": "UNAVAILABLE"})

    async def _listen(self, end: socket.socket) -> None:
        """Handle what the worker says until it says no more."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(end.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    received = channel.receive(end)
                except BlockingIOError:
                    continue
                except (OSError, ValueError):
                    return  # killed with a message unread, or in the middle of one
                if received is None:
                    return
                readable.set()
                await self._heard(*received)
        finally:
            loop.remove_reader(end.fileno())

    async def _heard(self, message: dict[str, Any], fds: list[int]) -> None:
        self.life.heard(message, fds)
        if "session" in message:
            self._on_session()
        if "ready" in message:
            self.life.announced = True
            await self._become(State.FINISHING if _is_unmounted(self.life) else State.SERVING)
        number = message.get("updated", message.get("update_failed"))
        answer = self._updates.get(number) if isinstance(number, int) else None
        if answer is not None and not answer.done():
            answer.set_result(message)

    async def _become(self, state: State) -> None:
        async with self._changed:
            self.state = state
            self._changed.notify_all()


def _is_unmounted(life: Lifecycle) -> bool:
    return bool(life.session and life.session.get("unmounted"))
