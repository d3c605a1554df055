"""The node service's side of the keeper: what it holds for us, put there again when it comes back.

Without a keeper everything works, but a restart of the node service then ends the mounts.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csi_slayer.content.tasks import end_task
from csi_slayer.node import keeper
from csi_slayer.observability import get_logger
from csi_slayer.observability.complaints import Complaints
from csi_slayer.worker import channel

log = get_logger(__name__)

ANSWER_TIMEOUT = 5.0
"""Seconds a keeper may take to answer before it counts as gone."""

START_TIMEOUT = 40.0
"""Seconds for which a start waits for a keeper that is there and does not answer: without what it
holds all mounts of an earlier node service are dead."""

RETRY_FIRST, RETRY_MAX = 0.05, 1.0
"""Pause between attempts to connect, seconds; doubled each time. Short, since until a new keeper
has everything, a restart of the node's container ends the mounts."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


@dataclass(slots=True)
class Held:
    """What the keeper has, or is to have, of a volume. ``state`` has no secrets, ``spec`` may.
    ``fuse_fd``: whoever has the object closes it."""

    state: dict[str, Any]
    spec: bytes = field(repr=False)
    fuse_fd: int | None = None


def seal(data: bytes) -> int:
    """An anonymous file in memory with this content, which nobody can change."""
    fd = os.memfd_create("slayer-spec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unseal(fd: int) -> bytes:
    """What :func:`seal` was given."""
    return os.pread(fd, os.fstat(fd).st_size, 0)


class Keeping:
    """A connection to the keeper, made again whenever it breaks.

    ``names`` and ``describe`` say what the keeper is to hold: they are asked when it is sent, and
    all of it is sent again to a keeper that is new. What ``describe`` gives stays its owner's.
    """

    def __init__(
        self,
        path: Path,
        names: Callable[[], Iterable[str]],
        describe: Callable[[str], Held | None],
    ) -> None:
        self._path = str(path)
        self._names = names
        self._describe = describe
        self._end: socket.socket | None = None
        self._complete = False  # nothing is missing that was to be held when we connected
        self._undropped: set[str] = set()  # what the keeper could not be told, and may still hold
        self._turn = asyncio.Lock()
        self._broken = asyncio.Event()
        self._complaints = Complaints(log)
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a keeper and it has been given everything."""
        return self._end is not None and self._complete

    async def start(self) -> dict[str, Held]:
        """Connect; returns what the keeper holds. Nothing where there is no keeper: it is looked
        for from now on."""
        held: dict[str, Held] = {}
        until = time.monotonic() + START_TIMEOUT
        while self._connect():
            await self._get_all(held)
            if self._end is not None or time.monotonic() > until:
                break
            await asyncio.sleep(RETRY_MAX)
        if self._end is None:
            log.warning("keeper_absent", socket=self._path, meaning="mounts end with this process")
            self._broken.set()
        else:
            self._complete = True
        self._task = asyncio.create_task(self._stay_connected())
        return held

    async def _get_all(self, held: dict[str, Held]) -> None:
        """Add what the keeper holds and is not there yet; all of it, if it stays connected."""
        names = await self._ask({"op": "list"})
        for name in names[0]["names"] if names is not None else ():
            answer = None if name in held else await self._ask({"op": "get", "name": name})
            if answer is not None:
                found = _understood(*answer)
                if found is None:
                    log.error("keeper_holds_nonsense", name=name)
                else:
                    held[name] = found

    async def close(self) -> None:
        await end_task(self._task)
        self._disconnect()

    async def put(self, name: str) -> bool:
        """Hold what ``describe`` says of the name. False if there is no keeper."""
        async with self._turn:
            held = self._describe(name)
            if held is None or self._end is None:
                return False
            self._undropped.discard(name)
            request = {"op": "put", "name": name, "state": held.state}
            if (size := len(json.dumps(request))) > keeper.LIMIT:
                # It would end the connection, and then no volume was held.
                log.error("keeper_refused", op="put", error=f"{size} bytes are too many")
                return False
            spec_fd = seal(held.spec)
            try:
                fds = (spec_fd,) if held.fuse_fd is None else (spec_fd, held.fuse_fd)
                return await self._exchange(self._end, request, fds) is not None
            finally:
                os.close(spec_fd)

    async def drop(self, name: str) -> None:
        """Let the keeper close what it holds: now, or when it answers again."""
        if len(self._undropped) < keeper.ENTRIES:  # it holds no more
            self._undropped.add(name)
        if await self._ask({"op": "drop", "name": name}) is not None:
            self._undropped.discard(name)

    async def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        """None if there is no keeper, or it refused."""
        async with self._turn:
            return None if self._end is None else await self._exchange(self._end, request)

    async def _exchange(
        self, end: socket.socket, request: dict[str, Any], fds: Sequence[int] = ()
    ) -> tuple[dict[str, Any], list[int]] | None:
        try:
            socket.send_fds(end, [json.dumps(request).encode()], list(fds))
            async with asyncio.timeout(ANSWER_TIMEOUT):
                data, received = await _receive(end)
            answer = json.loads(data)
        except (OSError, TimeoutError, ValueError) as error:
            log.warning("keeper_lost", error=str(error) or type(error).__name__)
            self._disconnect()
            return None
        except asyncio.CancelledError:
            self._disconnect()  # its answer would be taken for that of the next request
            raise
        if "error" in answer:
            log.error("keeper_refused", op=request["op"], error=answer["error"])
            return None
        return answer, received

    def _connect(self) -> bool:
        """Whether there is a keeper. One that has not taken earlier connections yet may take no
        more for now: then it is there, and nobody is connected."""
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.setblocking(False)
        try:
            end.connect(self._path)
        except OSError as error:
            end.close()
            return isinstance(error, BlockingIOError)
        self._end = end
        return True

    def _disconnect(self) -> None:
        self._broken.set()
        self._complete = False
        if self._end is not None:
            self._end.close()
            self._end = None

    async def _stay_connected(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self._broken_or_gone()
                while not self._connect():
                    await asyncio.sleep(pause)
                    pause = min(RETRY_MAX, pause * 2)
                await self._give_all()
            except Exception as error:
                # No descriptor or memory to be had: that passes, and the mounts must not end with
                # this process because it did once.
                self._complaints.failed("keeper", "keeper_not_connected", error)
                self._disconnect()
            if self._end is not None:
                pause = RETRY_FIRST
                self._complete = True
                self._complaints.over("keeper")
                log.info("keeper_connected")
            else:
                await asyncio.sleep(pause)
                pause = min(RETRY_MAX, pause * 2)

    async def _give_all(self) -> None:
        """Have the keeper, which is new, hold what it is to hold."""
        self._broken.clear()
        for name in list(self._names()):
            await self.put(name)
        for name in list(self._undropped):
            if name in self._undropped:  # it may have been put again meanwhile
                await self.drop(name)

    async def _broken_or_gone(self) -> None:
        """Wait until a request failed, or the keeper closed its end."""
        end = self._end
        if end is None:
            return
        loop = asyncio.get_running_loop()
        watched = os.dup(end.fileno())  # `_ask` waits on the other one
        try:
            loop.add_reader(watched, self._look, watched)
            await self._broken.wait()
        finally:
            loop.remove_reader(watched)
            os.close(watched)

    def _look(self, watched: int) -> None:
        """Something can be read: an answer, which is not ours to take, or the end."""
        if self._turn.locked():
            return
        try:
            with socket.socket(fileno=os.dup(watched)) as end:
                data = end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()


def _understood(answer: dict[str, Any], fds: list[int]) -> Held | None:
    if not 1 <= len(fds) <= 2:
        for fd in fds:
            os.close(fd)
        return None
    try:
        return Held(answer["state"], unseal(fds[0]), fds[1] if len(fds) > 1 else None)
    finally:
        os.close(fds[0])


async def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """One message. Raises OSError, also at the end."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            data, fds, flags, _address = socket.recv_fds(end, keeper.LIMIT, keeper.FDS)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(end.fileno(), ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_reader(end.fileno())
            continue
        for fd in fds:
            os.set_inheritable(fd, False)
        channel.check_complete(flags, fds)
        if not data:
            raise ConnectionResetError("the keeper closed the connection")
        return data, fds
