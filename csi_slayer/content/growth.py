"""What becomes of files' sizes while nobody tells.

The kernel writes passthrough files without us, so their growth is looked at, and parts of it are
sent ahead; and who had a file cut may be killed before that is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from csi_slayer.catalog import Catalog, Inode
from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import Held, OpenInode, OpenInodes
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.staged import StagedFile
from csi_slayer.content.upload import Uploader
from csi_slayer.errors import StoreError
from csi_slayer.observability.complaints import Complaints
from csi_slayer.store.write_token import WRITE_TOKEN

log = structlog.get_logger(__name__)

PERIOD, IDLE = 0.1, 0.5
"""Seconds between looks while files are open for writing, and while none is: a node has many
volumes that nobody writes to."""

REST = 10.0
"""Seconds for which a file is left alone of which nothing could be sent ahead."""


class Growth:
    """Watches the files that are open for writing; one task, owned by the content layer."""

    def __init__(
        self,
        catalog: Catalog,
        opened: OpenInodes,
        objects: Objects,
        uploader: Uploader,
        note_dirty: Callable[[Inode], Awaitable[None]],
        stored_into: Callable[[int], object],
        emptied: Callable[[int], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._catalog = catalog
        self._opened = opened
        self._objects = objects
        self._uploader = uploader
        self._note_dirty = note_dirty
        self._stored_into = stored_into
        self._emptied = emptied
        self._spawn = spawn
        self._sizes: dict[int, tuple[int, int]] = {}
        self._rests: dict[int, float] = {}
        self._complaints = Complaints(log)

    async def watch(self) -> None:
        writing = False
        while True:
            await asyncio.sleep(PERIOD if writing else IDLE)
            writing = False
            self._sizes = {i: s for i, s in self._sizes.items() if self._opened.is_writing(i)}
            self._rests = {i: t for i, t in self._rests.items() if self._opened.is_writing(i)}
            for record in self._opened:
                file = record.file
                if record.writers == 0 or not isinstance(file, StagedFile):
                    continue
                writing = True
                try:
                    await self._look(record.ino, file)
                except Exception as error:  # of one file: the others are looked at all the same
                    self._failed(record.ino, error)
            await self._forget_unwanted()

    async def _look(self, ino: int, file: StagedFile) -> None:
        part, size = self._uploader.part_size, file.size
        first, last = self._sizes.setdefault(ino, (size, size))
        self._sizes[ino] = (first, size)
        if first >= part or size <= last or size < 2 * part:
            return
        if self._rests.get(ino, 0.0) <= asyncio.get_running_loop().time():
            async with self._opened.held(ino):
                await self._send_ahead(ino, file)
            self._complaints.over(ino)

    def _failed(self, ino: int, error: Exception) -> None:
        self._rests[ino] = asyncio.get_running_loop().time() + REST
        if not isinstance(error, StoreError):  # which the real upload will meet and report
            self._complaints.failed(ino, "a growing file is not sent ahead", error, ino=ino)

    async def cut(self, record: OpenInode, file: StagedFile | OverlayFile, size: int) -> None:
        """Cut the file of ``record``, or make it longer; raises CacheFull. If the caller is
        cancelled it is another size all the same, or will be, which nobody else notes."""
        if size == 0:
            await self._emptied(record.ino)
        try:
            await self._opened.cut(record, file, size, partial(self._cut_later, record.ino, size))
        except asyncio.CancelledError:
            await self._note_cut(record.ino, size)
            raise
        if size == 0:  # a sync may have begun in between
            await self._emptied(record.ino)

    def _cut_later(self, ino: int, size: int, cut: asyncio.Future[None]) -> None:
        held = self._opened.held(ino)
        held.record.growing.append(size)
        self._spawn(self._note_later(held, size, cut))

    async def _note_later(self, held: Held, size: int, cut: asyncio.Future[None]) -> None:
        async with held as record:
            try:
                await asyncio.wait([cut])
            finally:
                record.growing.remove(size)
            await self._note_cut(record.ino, size)  # also if it failed: it counts as it is

    async def _note_cut(self, ino: int, size: int) -> None:
        inode = await self._catalog.find(ino)
        if inode is not None:
            self._stored_into(ino)
            await self._note_dirty(inode)
            if size == 0:  # last, for it waits for the disk
                await self._emptied(ino)

    async def _forget_unwanted(self) -> None:
        """A part may have been sent ahead just after the whole file was: nothing will use it."""
        for ino in self._uploader.sent_ahead():
            try:
                key = await self._catalog.path(ino)
                if not self._opened.is_writing(ino) and (
                    key is None or await self._catalog.pending(key) is None
                ):
                    await self._uploader.forget(ino)
            except Exception as error:
                self._complaints.failed(ino, "parts that nobody wants are kept", error, ino=ino)

    async def _send_ahead(self, ino: int, file: StagedFile) -> None:
        inode = await self._catalog.find(ino)
        key = await self._catalog.path(ino)
        if inode is None or key is None or not inode.is_file:
            return
        row = await self._catalog.pending(key)
        if row is None and self._objects.is_dirty(inode):
            await self._note_dirty(inode)
            row = await self._catalog.pending(key)
        if row is None:
            return
        values = await self._objects.metadata_of(inode)
        # The token tells that the object is ours if the end is not answered.
        values[WRITE_TOKEN] = f"{row.token}-ahead"
        await self._uploader.send_ahead(ino, key, file, values)
