"""A mount served by libfuse: the same surface as :class:`csi_slayer.fuse.session.Session`.

pyfuse3 runs on the worker's own event loop, in its asyncio mode. It keeps its connection in
variables of the module, so a process has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from typing import Final

import pyfuse3
import pyfuse3.asyncio
import structlog

from csi_slayer.errors import FsError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse.init import SessionState
from csi_slayer.fuse.notify import Invalidation, Notifier
from csi_slayer.fuse.pyfuse3_engine.adapter import LARGEST_READ, Adapter
from csi_slayer.fuse.pyfuse3_engine.nursery import Nursery
from csi_slayer.fuse.session import SessionOptions
from csi_slayer.fuse.stats import Stats
from csi_slayer.vfs.operations import Operations

log = structlog.get_logger(__name__)

CAPABILITIES: Final = (
    "async_dio", "async_read", "atomic_o_trunc", "big_writes", "max_pages", "readdirplus", "xattr",
)  # fmt: skip
"""What libfuse asks the kernel for by itself, of what has a name here."""

_NOTIFY_SECONDS: Final = 2.0
_CANCEL_SECONDS: Final = 5.0


class LibfuseNotifier(Notifier):
    """Invalidations through libfuse, by a thread of their own."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, expire_only=False)

    def send(self, what: Invalidation) -> None:
        ino = pyfuse3.InodeT(what.ino)
        if what.name is not None:
            pyfuse3.invalidate_entry(ino, pyfuse3.FileNameT(what.name))
        else:
            pyfuse3.invalidate_inode(ino, attr_only=what.offset < 0)


class Pyfuse3Session:
    """Made by :meth:`mount`; :meth:`run` serves until the file system is unmounted or
    :meth:`stop` is called. It is the file system's :class:`csi_slayer.vfs.types.Kernel`.

    ``fd`` is None: nobody can take the connection over. ``state`` says which it is.
    """

    fd: None = None
    passthrough: Final = False
    opens_unseen: Final = False
    lists_unseen: Final = False

    def __init__(
        self,
        fd: int,
        state: SessionState,
        adapter: Adapter,
        notifier: LibfuseNotifier,
        ops: Operations,
    ) -> None:
        self.state = state
        self.stats = adapter.stats
        self._fd = fd
        self._adapter = adapter
        self._notifier = notifier
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        ops.attach(self)

    @classmethod
    async def mount(
        cls, mountpoint: str, fsname: str, ops: Operations, options: SessionOptions
    ) -> Pyfuse3Session:
        """Mount at a directory, which ``df`` and mountinfo show as ``fsname``.

        Raises OSError for what mount(2) says; nothing is left mounted then.
        """
        fd, connection = await asyncio.to_thread(
            mounts.connect,
            mountpoint,
            fsname,
            read_only=ops.read_only,
            allow_other=options.allow_other,
        )
        loop = asyncio.get_running_loop()

        def ready() -> None:
            # The kernel takes its own value from the answer to INIT, which is sent after this.
            loop.call_soon(mounts.set_readahead, connection, options.readahead)

        notifier = LibfuseNotifier(fd)
        stats = Stats(options.observer)
        adapter = Adapter(ops, stats, loop, ready, notifier.invalidate_attributes)
        pyfuse3.asyncio.enable()
        pyfuse3.asyncio.open_nursery = Nursery  # type: ignore[assignment]
        # A mount point of this form has libfuse serve a descriptor that is mounted already.
        try:
            pyfuse3.init(adapter, f"/dev/fd/{fd}", set())
        except BaseException:
            mounts.unmount(mounts.resolve(mountpoint), lazy=True)
            os.close(fd)
            raise
        state = SessionState(
            minor=0,
            flags=0,
            max_write=LARGEST_READ,
            connection=connection,
            capabilities=CAPABILITIES,
            zero_open=False,
            zero_opendir=False,
        )
        return cls(fd, state, adapter, notifier, ops)

    @property
    def in_flight(self) -> int:
        """Requests whose handlers have not ended."""
        return len(self._adapter.running)

    def backing_open(self, fd: int) -> int:
        raise FsError(errno.EOPNOTSUPP, "libfuse has no passthrough")

    def backing_close(self, backing_id: int) -> None:
        raise FsError(errno.EOPNOTSUPP, "libfuse has no passthrough")

    def invalidate_attributes(self, ino: int) -> None:
        self._notifier.invalidate_attributes(ino)

    async def renew(self, ino: int) -> None:
        await self._notifier.renew(ino)

    def invalidate_inode(self, ino: int) -> bool:
        return self._notifier.invalidate_inode(ino)

    def invalidate_pages(self, ino: int, pages: range) -> None:
        """Nothing: libfuse's Python binding knows no parts of an inode."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self._notifier.invalidate_entry(parent, name)

    async def run(self) -> bool:
        """Serve requests. True if the connection has ended (unmounted or aborted), False if
        :meth:`stop` was called. Raises OSError if requests cannot be read."""
        if self._main is None and not self._stopping:
            self._main = asyncio.create_task(pyfuse3.main())
        if self._main is not None:
            await asyncio.shield(self._main)
        return not self._stopping

    async def stop(self, grace: float = 10.0, *, hand_over: bool = False) -> int:
        """Read no more, let handlers end within ``grace`` seconds, cancel the rest (their requests
        get EINTR); returns how many were cancelled. Queued invalidations are written.

        ``hand_over`` changes nothing: there is no successor."""
        late: list[asyncio.Task[object]] = []
        if self._main is not None and not self._main.done():
            self._stopping = True
            # A request that comes at this moment must not wake the reader that this ends.
            asyncio.get_running_loop().remove_reader(self._fd)
            with contextlib.suppress(asyncio.InvalidStateError):
                # Raised if it is awake already; it ends after this request then.
                pyfuse3.terminate()
            await asyncio.wait((self._main,), timeout=grace)
            late = list(self._adapter.running)
            for task in late:
                task.cancel()
            if late:
                log.warning("fuse_requests_cancelled", count=len(late))
                await asyncio.wait((self._main,), timeout=_CANCEL_SECONDS)
        self._stopping = self._stopping or self._main is None
        await asyncio.to_thread(self._notifier.close, _NOTIFY_SECONDS)
        return len(late)

    def close(self) -> None:
        """End the connection: every request fails from now on. Call :meth:`stop` before."""
        # A thread that still waits inside libfuse must not lose the memory it uses.
        if self._notifier.close(0):
            pyfuse3.close(unmount=False)
