"""One kernel connection served: mounted anew, or taken over from a predecessor."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from dataclasses import dataclass, field
from typing import Final

import structlog

from csi_slayer.errors import FsError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.channel import Channel
from csi_slayer.fuse.dispatch import Dispatcher
from csi_slayer.fuse.init import LARGEST, Capabilities, SessionState, negotiate
from csi_slayer.fuse.notify import Notifier, resend
from csi_slayer.fuse.passthrough import Backing
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.fuse.stats import Observer, Stats
from csi_slayer.observability.tracing import NullTracer, Tracer
from csi_slayer.vfs.operations import Operations

log = structlog.get_logger(__name__)

_INIT_SECONDS: Final = 10.0
_NOTIFY_SECONDS: Final = 2.0
_HEADER_ROOM: Final = p.PAGE


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """``readahead`` is in bytes. ``observer`` is told of each request, ``tracer`` makes
    a span of it."""

    capabilities: Capabilities = field(default_factory=Capabilities)
    allow_other: bool = True
    readahead: int = LARGEST
    observer: Observer | None = None
    tracer: Tracer = field(default_factory=NullTracer)


class Session:
    """Made by :meth:`mount` or :meth:`resume`; then :meth:`run` serves until the file system is
    unmounted or :meth:`stop` is called, and :meth:`close` lets go of the connection.

    It owns ``fd``; whoever is to take the connection over needs a duplicate, and ``state``.
    It is the file system's :class:`csi_slayer.vfs.types.Kernel`.
    """

    def __init__(
        self,
        fd: int,
        state: SessionState,
        ops: Operations,
        options: SessionOptions,
        *,
        inherits: bool = False,
    ) -> None:
        self.fd = fd
        self.state = state
        self.stats = Stats(options.observer)
        loop = asyncio.get_running_loop()
        self._channel = Channel(
            fd, state.max_write + _HEADER_ROOM, loop, splice="splice" in state.capabilities
        )
        self._notifier = Notifier(fd, expire_only="expire_only" in state.capabilities)
        self._dispatcher = Dispatcher(
            ops,
            self._channel,
            state,
            self.stats,
            loop,
            self._notifier.invalidate_attributes,
            options.tracer,
            inherits=inherits,
        )
        self._backing = Backing(fd, "passthrough" in state.capabilities)
        self._ended: asyncio.Future[bool] = loop.create_future()
        self._started = False
        self._to_resend = False
        ops.attach(self)

    @classmethod
    async def mount(
        cls,
        mountpoint: str,
        fsname: str,
        ops: Operations,
        options: SessionOptions | None = None,
    ) -> Session:
        """Mount at a directory, which ``df`` and mountinfo show as ``fsname``.

        Raises OSError for what mount(2) says, FsError(EPROTO) for a kernel too old; nothing is
        left mounted then.
        """
        options = options or SessionOptions()
        fd, state = await asyncio.to_thread(_mount, mountpoint, fsname, ops, options)
        return cls(fd, state, ops, options)

    @classmethod
    def resume(
        cls,
        fd: int,
        state: SessionState,
        ops: Operations,
        options: SessionOptions | None = None,
    ) -> Session:
        """Take an existing connection over. Requests that the predecessor had read and not
        answered come again once :meth:`run` is called, if the kernel can do that; if not, their
        callers wait until a signal ends them.

        The negotiated capabilities stay; those of ``options`` do not matter.
        """
        os.set_blocking(fd, False)
        resends = "resend" in state.capabilities
        session = cls(fd, state, ops, options or SessionOptions(), inherits=not resends)
        session._to_resend = resends
        return session

    def _have_resent(self) -> None:
        """Not before they are read at once: a request that waits to be read is taken back when its
        caller is killed, though the predecessor may have opened a file for it, which nobody would
        close then. Raises FsError."""
        self._to_resend = False
        try:
            resend(self.fd)
        except OSError as error:
            if error.errno not in (errno.ENODEV, errno.ENOTCONN, errno.EPERM):
                raise FsError(error.errno or errno.EIO, "the kernel resends nothing") from error

    @property
    def in_flight(self) -> int:
        """Requests whose handlers wait for something."""
        return self._dispatcher.in_flight

    @property
    def passthrough(self) -> bool:
        return self._backing.usable

    @property
    def opens_unseen(self) -> bool:
        return self.state.zero_open

    @property
    def lists_unseen(self) -> bool:
        return self.state.zero_opendir

    def backing_open(self, fd: int) -> int:
        return self._backing.open(fd)

    def backing_close(self, backing_id: int) -> None:
        self._backing.close(backing_id)

    def invalidate_attributes(self, ino: int) -> None:
        self._notifier.invalidate_attributes(ino)

    async def renew(self, ino: int) -> None:
        await self._notifier.renew(ino)

    def invalidate_inode(self, ino: int) -> bool:
        return self._notifier.invalidate_inode(ino)

    def invalidate_pages(self, ino: int, pages: range) -> None:
        self._notifier.invalidate_pages(ino, pages)

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self._notifier.invalidate_entry(parent, name)

    async def run(self) -> bool:
        """Serve requests. True if the connection has ended (unmounted or aborted), False if
        :meth:`stop` was called."""
        if not self._ended.done():
            self._started = True
            if self._to_resend:
                self._have_resent()
            self._channel.start(self._dispatcher.dispatch, self._on_closed)
        return await asyncio.shield(self._ended)

    def _on_closed(self) -> None:
        if not self._ended.done():
            self._ended.set_result(True)

    async def stop(self, grace: float = 10.0, *, hand_over: bool = False) -> int:
        """Read no more, let handlers end within ``grace`` seconds, cancel the rest; returns how
        many were cancelled. Their requests get EINTR, or, with ``hand_over`` and a kernel that can
        resend, no answer: the successor has them. Queued invalidations are written."""
        self._channel.stop()
        unanswered = hand_over and "resend" in self.state.capabilities
        late = await self._dispatcher.drain(grace, leave_unanswered=unanswered)
        if late:
            log.warning("fuse_requests_cancelled", count=late)
        await asyncio.to_thread(self._notifier.close, _NOTIFY_SECONDS)
        if not self._ended.done():
            self._ended.set_result(False)
        return late

    def close(self) -> None:
        """Close the descriptor. If it is the last one of the connection, every request fails from
        now on. Call :meth:`stop` before."""
        self._channel.close()
        # A thread that still waits inside a write must not meet another file at this number, if it
        # has no table of descriptors of its own.
        if self._notifier.close(0):
            os.close(self.fd)


def _mount(
    mountpoint: str, fsname: str, ops: Operations, options: SessionOptions
) -> tuple[int, SessionState]:
    fd, connection = mounts.connect(
        mountpoint, fsname, read_only=ops.read_only, allow_other=options.allow_other
    )
    try:
        state = _initialise(fd, connection, ops, options)
    except BaseException:
        mounts.unmount(mounts.resolve(mountpoint), lazy=True)
        os.close(fd)
        raise
    if not mounts.set_readahead(connection, options.readahead):
        log.info("fuse_readahead_unchanged")
    return fd, state


def _initialise(fd: int, connection: int, ops: Operations, options: SessionOptions) -> SessionState:
    """Answer INIT, which the kernel sends by itself after mount(2)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(_INIT_SECONDS * 1000):
        raise FsError(errno.ETIMEDOUT, "the kernel sent no INIT")
    request = memoryview(os.read(fd, 1 << 20))
    _len, opcode, unique, *_ = p.IN_HEADER.unpack_from(request)
    if opcode != Opcode.INIT:
        raise FsError(errno.EPROTO, f"the kernel began with request {opcode} instead of INIT")
    try:
        state, reply = negotiate(
            request[p.IN_HEADER_SIZE :],
            options.capabilities,
            connection=connection,
            zero_upcall=ops.zero_upcall,
        )
    except FsError as error:
        os.write(fd, p.OUT_HEADER.pack(p.OUT_HEADER_SIZE, -error.errno, unique))
        raise
    os.write(fd, p.OUT_HEADER.pack(p.OUT_HEADER_SIZE + len(reply), 0, unique) + reply)
    return state
