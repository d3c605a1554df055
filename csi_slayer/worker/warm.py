"""Fetching a tree into the cache before anybody reads it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from typing import Any

from csi_slayer.catalog import Inode
from csi_slayer.errors import FsError, SlayerError
from csi_slayer.observability import get_logger
from csi_slayer.vfs.filesystem import FileSystem

log = get_logger(__name__)

FILES_AT_ONCE = 12
REPORT_EVERY = 0.2
"""Seconds between progress reports."""


class Warmer:
    """One run over a tree of the volume."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._queue: asyncio.Queue[Inode | None] = asyncio.Queue(maxsize=256)
        self.files = self.bytes = self.failed = 0
        self.total_files = self.total_bytes = 0
        self.listed = False

    async def run(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Progress reports; ``path`` is relative to the volume's root."""
        top = await self._fs.catalog.resolve("")
        for name in [part for part in path.split("/") if part]:
            assert top is not None
            _parent, top = await self._fs.find_child(top.ino, name)
            if top is None:
                raise FsError(2, f"no such file or directory in the volume: {path!r}")
            if top.is_symlink:
                raise FsError(errno.ELOOP, f"{name!r} is a symbolic link: name what it leads to")
        assert top is not None
        tasks = [asyncio.create_task(self._lane()) for _ in range(FILES_AT_ONCE)]
        walker = asyncio.create_task(self._walk(top))
        try:
            pending: set[asyncio.Task[None]] = {walker, *tasks}
            while pending:
                done, pending = await asyncio.wait(pending, timeout=REPORT_EVERY)
                for task in done:
                    task.result()
                yield self._report()
        finally:
            for task in (walker, *tasks):
                task.cancel()
            await asyncio.gather(walker, *tasks, return_exceptions=True)

    def _report(self) -> dict[str, Any]:
        return {
            "files": self.files, "bytes": self.bytes, "failed": self.failed,
            "total_files": self.total_files, "total_bytes": self.total_bytes,
            "listed": self.listed,
        }  # fmt: skip

    async def _walk(self, top: Inode) -> None:
        stack = [top]
        while stack:
            inode = stack.pop()
            if not inode.is_dir:
                await self._found(inode)
                continue
            await self._fs.refresh.ensure_listed(inode)
            after = 0
            while children := await self._fs.catalog.children(inode.ino, after, 500):
                after = children[-1][1].place
                for _name, child in children:
                    if child.is_dir:
                        stack.append(child)
                    else:
                        await self._found(child)
        self.listed = True
        for _ in range(FILES_AT_ONCE):
            await self._queue.put(None)

    async def _found(self, inode: Inode) -> None:
        if inode.is_file and inode.etag is not None and inode.size and inode.stage is None:
            self.total_files += 1
            self.total_bytes += inode.size
            await self._queue.put(inode)

    async def _lane(self) -> None:
        while (inode := await self._queue.get()) is not None:
            try:
                await self._fetch(inode)
                self.bytes += inode.size
            except SlayerError as error:
                log.warning("not warmed", key=await self._fs.catalog.path(inode.ino),
                            error=str(error))  # fmt: skip
                self.failed += 1
            self.files += 1

    async def _fetch(self, inode: Inode) -> None:
        file = await self._fs.content.open_clean(inode)
        try:
            if not await file.fill_all():
                raise FsError(errno.ENOSPC, "no room in the cache, or its disk fails")
        finally:
            await file.close()
