"""From a request's bytes to its handler, and from the handler's outcome to a reply.

SYNCFS, STATX, TMPFILE, POLL, IOCTL, BMAP and locks are answered ENOSYS, as is what a capability
switches off: the kernel then does without, and does not ask again.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import math
from collections.abc import Callable, Coroutine, Iterable
from time import perf_counter
from typing import Any

from csi_slayer.fuse import protocol as p
from csi_slayer.fuse import requests
from csi_slayer.fuse.channel import Buffer, Channel
from csi_slayer.fuse.failures import errno_of, log_failure
from csi_slayer.fuse.handlers import attributes, directories, files, names
from csi_slayer.fuse.handlers.served import Handler, Served
from csi_slayer.fuse.init import SessionState
from csi_slayer.fuse.interrupts import Interrupts
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.fuse.reading import FileReader
from csi_slayer.fuse.stats import Stats, name_of
from csi_slayer.fuse.task import RequestTask
from csi_slayer.observability.logging import REQUEST
from csi_slayer.observability.tracing import Tracer
from csi_slayer.vfs.operations import Operations
from csi_slayer.vfs.types import Request

COPIED = 32 << 10
"""Bytes of a WRITE up to which its data is copied, so that the handler never holds the buffer."""

_CANCEL_SECONDS = 5.0
"""How long cancelled handlers may take to end."""

_RESEND = p.UNIQUE_RESEND
_READ, _WRITE = int(Opcode.READ), int(Opcode.WRITE)


class Running(RequestTask):
    """A request while its handler runs."""

    __slots__ = ("buffer", "opcode", "pid", "prepared", "started", "unique")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_done: Callable[[Running], None]) -> None:
        super().__init__(loop, on_done)
        self.unique = self.opcode = self.pid = 0
        self.prepared = False
        self.started = 0.0
        self.buffer: Buffer | None = None

    def get_name(self) -> str:
        """What log lines of the request are marked with."""
        return f"{REQUEST}{self.unique & ~_RESEND}"


async def _traced(tracer: Tracer, name: str, unique: int, work: Coroutine[Any, Any, Any]) -> Any:
    """A handler within a span; what it waits for in the store becomes its child."""
    with tracer.span(f"fuse.{name}", {"request": unique}):
        return await work


def handlers(state: SessionState) -> list[Handler | None]:
    """The handler of each opcode; None is ENOSYS."""
    allowed = state.allowed
    table: dict[Opcode, Handler] = {
        **names.HANDLERS, **attributes.HANDLERS, **files.HANDLERS, **directories.HANDLERS,
    }  # fmt: skip
    for wanted, more in (
        (not state.zero_open, files.OPEN_HANDLERS),
        (not state.zero_opendir, directories.OPENDIR_HANDLERS),
        (allowed.readdirplus, directories.READDIRPLUS_HANDLERS),
        (allowed.xattr, attributes.XATTR_HANDLERS),
        (allowed.fallocate, files.FALLOCATE_HANDLERS),
        (allowed.lseek, files.LSEEK_HANDLERS),
        (allowed.copy_file_range, files.COPY_HANDLERS),
    ):
        if wanted:
            table.update(more)
    return [table.get(Opcode(n)) if n in Opcode._value2member_map_ else None
            for n in range(max(Opcode) + 1)]  # fmt: skip


class Dispatcher:
    """Serves one connection on one event loop."""

    def __init__(
        self,
        ops: Operations,
        channel: Channel,
        state: SessionState,
        stats: Stats,
        loop: asyncio.AbstractEventLoop,
        attributes_changed: Callable[[int], object],
        tracer: Tracer | None = None,
        *,
        inherits: bool = False,
    ) -> None:
        """``inherits``: a predecessor's requests may wait that the kernel does not send again."""
        self._tracer = tracer if tracer is not None and tracer.enabled else None
        self._ops = ops
        self._channel = channel
        self._loop = loop
        self._stats = stats
        self._handlers = handlers(state)
        self._served = Served(
            ops,
            FileReader(state.max_write, channel.spliceable, loop),
            state.allowed.setxattr_ext,
            attributes_changed,
        )
        self._running: dict[int, Running] = {}
        self._interrupts = Interrupts(channel, self._running, loop)
        # The kernel numbers requests as it queues them: what died with a predecessor has a lower
        # number than the first one that is read here.
        self._abandoned = math.inf if inherits else 0.0
        self._context = contextvars.copy_context()
        self._spare = Running(loop, self._finished)
        self._idle: asyncio.Future[None] | None = None
        self._leave_unanswered = False

    @property
    def in_flight(self) -> int:
        """Requests whose handlers wait for something."""
        return len(self._running)

    def dispatch(self, buffer: Buffer, length: int) -> bool:
        """Handle the request in ``buffer``; True if the buffer is kept until the handler ends."""
        started = perf_counter()
        view = buffer.view
        _len, opcode, unique, ino, uid, gid, pid, _extlen, _ = p.IN_HEADER.unpack_from(view)
        handler = self._handlers[opcode] if opcode < len(self._handlers) else None
        body = view[p.IN_HEADER_SIZE : length]
        if handler is None:
            self._other(opcode, unique, ino, body)
            return False
        large = False
        if opcode == _WRITE:
            large = length > COPIED
            if not large:
                body = memoryview(bytes(body))
        request = Request(unique & ~_RESEND, uid, gid, pid, unique >= _RESEND)
        if self._abandoned == math.inf:
            self._abandoned = unique
        task = self._spare
        task.unique, task.opcode, task.pid, task.started = unique, opcode, pid, started
        work = handler(self._served, request, ino, body)
        if self._tracer is not None:
            work = _traced(self._tracer, name_of(opcode), request.unique, work)
        if task.start(work, self._context.copy()):
            self._answer(task)
            return False
        self._spare = Running(self._loop, self._finished)
        self._running[unique] = task
        if opcode == _READ:
            task.prepared = requests.is_direct_read(body)
        if large:
            task.buffer = buffer
        return large

    def _finished(self, task: Running) -> None:
        """A handler that had to wait has ended."""
        del self._running[task.unique]
        if task.buffer is not None:
            self._channel.give_back(task.buffer)
        try:
            self._answer(task)
        finally:
            if not self._running and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    def _answer(self, task: Running) -> None:
        error, number = task.error, 0
        if error is None:
            self._channel.reply(task.unique, task.result)
        elif self._leave_unanswered and isinstance(error, asyncio.CancelledError):
            return
        else:
            number = errno_of(error, task.opcode, task.unique & ~_RESEND)
            self._channel.reply_error(task.unique, number)
        self._stats.record(task.opcode, perf_counter() - task.started, number)
        # A reply may be large, an error holds frames; neither is needed until the next request.
        task.result = task.error = None
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error

    def _other(self, opcode: int, unique: int, ino: int, body: memoryview) -> None:
        """Requests without a handler coroutine: those without a reply, and unknown ones."""
        if opcode == Opcode.FORGET:
            self._forget(((ino, p.FORGET_IN.unpack_from(body)[0]),), opcode)
        elif opcode == Opcode.BATCH_FORGET:
            self._forget(requests.forgets(body), opcode)
        elif opcode == Opcode.INTERRUPT:
            self._interrupts.handle(unique, body, self._abandoned)
        elif opcode == Opcode.DESTROY:
            self._channel.reply(unique, None)
        else:
            self._stats.record(opcode, 0.0, errno.ENOSYS)
            self._channel.reply_error(unique, errno.ENOSYS)

    def _forget(self, lookups: Iterable[tuple[int, int]], opcode: int) -> None:
        started = perf_counter()
        for ino, count in lookups:
            try:
                self._ops.forget(ino, count)
            except Exception as error:
                log_failure(opcode, error)
        self._stats.record(opcode, perf_counter() - started, 0)

    async def drain(self, seconds: float, *, leave_unanswered: bool) -> int:
        """Let handlers end; cancel those that have not after ``seconds``. Returns how many.

        ``leave_unanswered``: a cancelled request gets no answer, so that it is sent again to
        whoever serves the connection next; otherwise it gets EINTR.
        """
        await self._until_idle(seconds)
        late = list(self._running.values())
        self._leave_unanswered = leave_unanswered
        for task in late:
            task.cancel()
        if late:
            await self._until_idle(_CANCEL_SECONDS)
        return len(late)

    async def _until_idle(self, seconds: float) -> None:
        if self._running:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=seconds)
            self._idle = None
