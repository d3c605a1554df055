"""A volume without a kernel: the file system, its cache and catalog, over a bucket in memory."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from csi_slayer.cache import Cache
from csi_slayer.catalog import Catalog, Defaults
from csi_slayer.content.content import Content
from csi_slayer.content.options import ContentOptions, Live
from csi_slayer.content.ranges import as_bytes
from csi_slayer.vfs.filesystem import FileSystem
from csi_slayer.vfs.options import VfsOptions
from csi_slayer.vfs.types import Opened, OpenFlags, Request
from tests.unit.vfs.loop import InstantLoop, InstantPatient
from tests.unit.vfs.memory_store import Bucket, MemoryStore

T = TypeVar("T")

DRAIN = 60.0
"""Seconds, of which it needs milliseconds, for its pauses take no time here; but those that a busy
machine's disk needs count."""


class NoEvents:
    """Counts conflicts, of which there must be none."""

    def __init__(self) -> None:
        self.conflicts = 0

    def cache_read(self, hit: int, miss: int) -> None: ...
    def hidden_keys(self, count: int) -> None: ...
    def opened(self, passthrough: bool) -> None: ...

    def conflict(self) -> None:
        self.conflicts += 1


class FakeKernel:
    """Holds the backing files of passthrough opens, as the kernel does when a worker dies."""

    def __init__(self, passthrough: bool) -> None:
        self.passthrough = passthrough
        self.opens_unseen = self.lists_unseen = False
        self.backing: dict[int, int] = {}
        self._ids = itertools.count(1)

    def backing_open(self, fd: int) -> int:
        number = next(self._ids)
        self.backing[number] = os.dup(fd)
        return number

    def backing_close(self, backing_id: int) -> None:
        if (fd := self.backing.pop(backing_id, None)) is not None:
            os.close(fd)

    def invalidate_attributes(self, ino: int) -> None: ...
    async def renew(self, ino: int) -> None: ...
    def invalidate_inode(self, ino: int) -> bool:
        return True

    def invalidate_pages(self, ino: int, pages: range) -> None: ...
    def invalidate_entry(self, parent: int, name: bytes) -> None: ...

    def close(self) -> None:
        for number in list(self.backing):
            self.backing_close(number)


class Volume:
    """One after the other incarnations of a worker over the same directory and bucket."""

    def __init__(self, root: Path, *, passthrough: bool, ttl: float, **content: Any) -> None:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        self.root = root
        self.bucket = Bucket(tree=content.pop("tree", False), hides=content.pop("hides", False))
        self.kernel = FakeKernel(passthrough)
        self.events = NoEvents()
        durability = content.pop("durability", "close")
        self.live = Live(metadata_ttl=ttl, negative_ttl=0, durability=durability)
        self.content = ContentOptions("v", "t", live=self.live, **content)
        self.vfs = VfsOptions(live=self.live, posix=self.content.posix)
        self._uniques = itertools.count(2, 2)
        self.start(taken_over=False)

    def start(self, *, taken_over: bool) -> None:
        if not taken_over:
            self.kernel.close()
        self.loop = InstantLoop()
        self.cache = Cache(self.root / "cache", 1 << 30)
        self.store = self.open_store()
        catalog = Catalog(self.root / "catalog.db", Defaults(0, 0, 0o644, 0o755))

        def make(changed: Any) -> Content:
            return Content(self.store, self.cache, catalog, self.content, self.events, changed)

        async def begin() -> FileSystem:
            fs = FileSystem(catalog, make, self.vfs, self.events, self.root / "handles")
            fs.opened.patient = InstantPatient()
            fs.attach(self.kernel)
            await fs.start(taken_over=taken_over)
            return fs

        self.catalog = catalog
        self.fs = self.loop.run_until_complete(begin())

    def open_store(self) -> MemoryStore:
        return MemoryStore(self.bucket)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """One call of the file system to its end; background work goes on meanwhile."""
        return self.loop.run_until_complete(call)

    def turn(self, count: int) -> None:
        """Let background work go on for some turns of the loop and its timers."""

        async def turns() -> None:
            for _ in range(count):
                await asyncio.sleep(0.002)

        self.run(turns())

    def request(self) -> Request:
        return Request(next(self._uniques), 0, 0, 1)

    def stop(self) -> None:
        """An orderly end: uploads, then closes."""
        left = self.run(self.fs.drain(DRAIN))
        assert left == 0, f"{left} keys left: {self.run(self.catalog.pendings('', 99))}"
        self.run(self.fs.close())
        self._closed()

    def _closed(self) -> None:
        self.cache.close()
        with contextlib.suppress(Exception):
            self.catalog.close()
        self.loop.close()

    def die(self) -> None:
        """kill -9: nothing that was under way has any further effect."""
        self.store.dead = True
        self.catalog.close()
        self.fs.handles.close()
        for _ in range(20):  # cleaning up begins new waits for the store that never answers
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        assert not asyncio.all_tasks(self.loop)

        async def close_files() -> None:
            for record in self.fs.opened:
                if record.file is not None:
                    await record.file.close()

        self.run(close_files())
        self._closed()

    @staticmethod
    def is_past_us(opened: Opened) -> bool:
        return opened.flags & (OpenFlags.PASSTHROUGH | OpenFlags.DIRECT_IO) == OpenFlags.PASSTHROUGH

    def write(self, ino: int, opened: Opened, offset: int, data: bytes) -> None:
        """As the kernel does it: into the backing file, or by asking."""
        if self.is_past_us(opened):
            os.pwrite(self.kernel.backing[opened.backing_id], data, offset)
        else:
            call = self.fs.write(self.request(), ino, opened.fh, offset, memoryview(data))
            assert self.run(call) == len(data)

    def read(self, ino: int, opened: Opened, offset: int, size: int) -> bytes:
        if self.is_past_us(opened):
            return os.pread(self.kernel.backing[opened.backing_id], size, offset)
        return as_bytes(self.run(self.fs.read(self.request(), ino, opened.fh, offset, size)))

    def inodes(self) -> int:
        """In the catalog, also those without a name."""
        row = self.catalog._db.one("SELECT count(*) FROM inodes")
        assert row is not None
        return int(row[0])

    def objects(self) -> dict[str, bytes]:
        return {key: blob.body for key, blob in self.bucket.objects.items()}
