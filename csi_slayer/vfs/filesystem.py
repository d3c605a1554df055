"""The file system of one volume: all calls together, its start and its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from csi_slayer.catalog import Catalog
from csi_slayer.content.content import Content
from csi_slayer.vfs.attrops import AttrOps
from csi_slayer.vfs.dirops import DirOps
from csi_slayer.vfs.fileops import FileOps
from csi_slayer.vfs.options import VfsEvents, VfsOptions
from csi_slayer.vfs.types import Request
from csi_slayer.vfs.unopened import Unopened

log = structlog.get_logger(__name__)


class FileSystem(FileOps, DirOps, AttrOps):
    """Implements :class:`csi_slayer.vfs.operations.Operations`.

    ``handles_path`` is the file of the handle table. Call :meth:`start` once, after the decision
    whether the kernel connection is new, and :meth:`close` at the end.
    """

    def __init__(
        self,
        catalog: Catalog,
        make_content: Callable[[Callable[[int], None]], Content],
        options: VfsOptions,
        events: VfsEvents,
        handles_path: Path,
    ) -> None:
        super().__init__(catalog, make_content, options, events, handles_path)
        self.opened.let_go = self._drop
        self._unopened = Unopened(self.opened, self._kept, self.spawn, self.content.smalls.room)
        self._refused_before = 0.0

    async def start(self, *, taken_over: bool) -> None:
        """Recover, then be ready. ``taken_over``: the kernel connection is an earlier worker's,
        so its open files are still open and its last requests may come again."""
        if taken_over:
            await self.restore_handles()
            if self.kernel.lists_unseen:
                self.spawn(self.drop_all_shown())
        else:
            self.handles.clear()
            await self.catalog.forget_completed()
        await self.content.start()

    async def let_go(self) -> None:
        """The kernel connection is gone, and with it every open file: a lazy unmount, or one
        that overtakes the RELEASE of a file just closed, brings no RELEASE any more."""
        for handle in self.handles:
            await self.release(Request(0, 0, 0, 0), handle.ino, handle.fh)
        await self._late.let_go()
        await self.content.let_go()

    async def drain(self, seconds: float) -> int:
        """Upload what is pending; returns how many keys are left when the time is over."""
        return await self.content.reconciler.drain(seconds)

    async def close(self) -> None:
        self._shown.close()
        await self.refresh.close()
        await self.unread.close()
        await self.content.close()
        self.handles.close()
