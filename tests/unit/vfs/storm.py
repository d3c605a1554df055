"""Many calls at once, chosen at random, against what each may answer: a storm.

As in the kernel, calls that change the same names wait for each other, and so do writers of one
file; everything else meets, in a store that answers after random delays and a worker that dies.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import Opened, OpenFlags, SetAttr
from tests.unit.vfs.harness import Volume

T = TypeVar("T")

NAMES = ("a", "b", "c", "d/a", "d/b", "e/a")
SIZES = (0, 5, 5_000, 140_000, 300_000, 600_000)
CALLERS, CALLS = 4, 12
EXCHANGE = 2


class File:
    """What a file should hold; ``lock``: one writer at a time."""

    def __init__(self) -> None:
        self.data = b""
        self.lock = asyncio.Lock()

    def write(self, offset: int, data: bytes) -> None:
        old = self.data
        self.data = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


class Storm:
    """One volume, of a kind that the seed chooses. ``run`` raises AssertionError if anything is not
    as it should be."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._directory = Path(tempfile.mkdtemp(prefix="storm-", dir="/dev/shm"))
        self._durability = self._choose("close", "close", "fsync", "writeback")
        self._volume = Volume(
            self._directory,
            passthrough=self._chance(0.5),
            ttl=self._choose(0, 0, 3600),
            durability=self._durability,
            hydrate_max=self._choose(0, 1 << 20),
            part_size=1 << 18,
            posix=self._chance(0.4),
        )
        self._slow_store()
        self._files: dict[str, File] = {}
        self._serial = 0
        self._locks: dict[str, asyncio.Lock] = {}
        self._new_locks()

    def _choose(self, *values: T) -> T:
        return self._random.choice(values)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _new_locks(self) -> None:
        """Those of before belong to calls that died."""
        self._locks = {name: asyncio.Lock() for name in (*NAMES, "d", "e")}
        for file in self._files.values():
            file.lock = asyncio.Lock()

    def _slow_store(self) -> None:
        store = self._volume.store

        def delayed(call: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
            async def wait() -> None:
                for _ in range(self._choose(0, 0, 1, 2, 5, 20, 60)):
                    await asyncio.sleep(0)
                await call()

            return wait

        for name in ("_begin", "_end"):
            setattr(store, name, delayed(getattr(store, name)))

    async def _pause(self) -> None:
        for _ in range(self._choose(0, 1, 3, 10, 40)):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def _locked(self, *names: str) -> AsyncIterator[None]:
        ordered = sorted(set(names))
        for name in ordered:
            await self._locks[name].acquire()
        try:
            yield
        finally:
            for name in ordered:
                self._locks[name].release()

    # -- calls ---------------------------------------------------------------------------------

    async def _look(self, path: str) -> int | None:
        """The inode at a path."""
        parent, name = await self._place(path)
        entry = await self._volume.fs.lookup(self._volume.request(), parent, name)
        return None if entry.attr is None else entry.attr.ino

    async def _place(self, path: str) -> tuple[int, bytes]:
        directory, _slash, name = path.rpartition("/")
        if not directory:
            return ROOT, name.encode()
        request = self._volume.request()
        entry = await self._volume.fs.lookup(request, ROOT, directory.encode())
        assert entry.attr is not None, f"the directory {directory} is lost"
        return entry.attr.ino, name.encode()

    async def _read(self, ino: int, opened: Opened) -> bytes:
        volume = self._volume
        if volume.is_past_us(opened):
            return os.pread(volume.kernel.backing[opened.backing_id], 1 << 22, 0)
        return as_bytes(await volume.fs.read(volume.request(), ino, opened.fh, 0, 1 << 22))

    async def _put(self, ino: int, opened: Opened, offset: int, data: bytes) -> None:
        volume = self._volume
        if volume.is_past_us(opened):
            os.pwrite(volume.kernel.backing[opened.backing_id], data, offset)
        else:
            view = memoryview(data)
            await volume.fs.write(volume.request(), ino, opened.fh, offset, view)

    async def _open(self, path: str, file: File, ino: int, flags: int) -> Opened | None:
        """None if the file lost its name meanwhile."""
        try:
            return await self._volume.fs.open(self._volume.request(), ino, flags)
        except FsError as error:
            if file in self._files.values():
                raise AssertionError(f"{path}: {error!r}") from error
            return None

    async def _same(self, path: str, file: File, ino: int, opened: Opened) -> None:
        found = await self._read(ino, opened)
        assert found == file.data, f"{path} ({ino}): {_brief(found)}, not {_brief(file.data)}"

    def _check_stored(self, file: File) -> None:
        """A close or fsync has returned."""
        if self._durability != "writeback" and file in self._files.values():
            stored = self._volume.objects().values()
            assert file.data in stored, f"{_brief(file.data)} is nowhere in the store"

    # -- what callers do -----------------------------------------------------------------------

    async def _write(self) -> None:
        path = self._choose(*NAMES)
        volume, opened = self._volume, None
        async with self._locked(path):
            file = self._files.get(path)
            if file is None:
                parent, name = await self._place(path)
                call = volume.fs.create(volume.request(), parent, name, 0o644, os.O_RDWR)
                entry, opened = await call
                assert entry.attr is not None
                ino: int | None = entry.attr.ino
                file = self._files[path] = File()
                await file.lock.acquire()
            else:
                ino = await self._look(path)
        assert ino is not None, f"{path} is gone"
        if opened is None:
            await file.lock.acquire()
        try:
            if opened is None:
                truncate = self._choose(0, os.O_TRUNC)
                opened = await self._open(path, file, ino, os.O_RDWR | truncate)
                if opened is None:
                    return
                if truncate:
                    file.data = b""
            await self._same(path, file, ino, opened)
            for _ in range(self._choose(0, 1, 1, 2)):
                await self._change(file, ino, opened)
            await self._same(path, file, ino, opened)
            if not opened.flags & OpenFlags.NOFLUSH:
                await volume.fs.flush(volume.request(), ino, opened.fh)
                if self._durability == "close":
                    self._check_stored(file)
            await volume.fs.release(volume.request(), ino, opened.fh)
        finally:
            file.lock.release()

    async def _change(self, file: File, ino: int, opened: Opened) -> None:
        fs, request = self._volume.fs, self._volume.request
        self._serial += 1
        size = self._choose(*SIZES)
        if size:
            data = (b"%06d" % self._serial) * (size // 6 + 1)
            offset = self._choose(0, 0, 3, 140_000)
            await self._put(ino, opened, offset, data)
            file.write(offset, data)
        await self._pause()
        kind = self._random.random()
        if kind < 0.2:
            changes = SetAttr(mtime_ns=10**18 + self._choose(1, 2))
            await fs.setattr(request(), ino, changes)
        elif kind < 0.3:
            await fs.setattr(request(), ino, SetAttr(mode=self._choose(0o600, 0o644)))
        elif kind < 0.4:
            length = self._choose(0, 100, 200_000)
            await fs.setattr(request(), ino, SetAttr(size=length))
            file.data = file.data[:length].ljust(length, b"\0")
        if self._chance(0.4):
            await fs.fsync(request(), ino, opened.fh, False)
            self._check_stored(file)
        await self._pause()

    async def _check(self) -> None:
        path = self._choose(*NAMES)
        async with self._locked(path):
            file, ino = self._files.get(path), await self._look(path)
            assert (ino is None) == (file is None), f"{path}: {ino}"
        if file is None or ino is None:
            return
        async with file.lock:
            opened = await self._open(path, file, ino, os.O_RDONLY)
            if opened is None:
                return
            await self._same(path, file, ino, opened)
            await self._pause()
            await self._same(path, file, ino, opened)
            await self._volume.fs.release(self._volume.request(), ino, opened.fh)

    async def _unlink(self) -> None:
        path = self._choose(*NAMES)
        async with self._locked(path):
            if path in self._files:
                place = await self._place(path)
                await self._volume.fs.unlink(self._volume.request(), *place)
                del self._files[path]

    async def _rename(self) -> None:
        old, new = self._random.sample(NAMES, 2)
        flags = EXCHANGE if self._chance(0.2) else 0
        async with self._locked(old, new):
            if old not in self._files or (flags and new not in self._files):
                return
            source, target = await self._place(old), await self._place(new)
            await self._volume.fs.rename(self._volume.request(), *source, *target, flags)
            moved = self._files.pop(old)
            if flags:
                self._files[old] = self._files[new]
            self._files[new] = moved

    async def _swap_directories(self) -> None:
        async with self._locked(*self._locks):
            request, fs = self._volume.request, self._volume.fs
            await fs.rename(request(), ROOT, b"d", ROOT, b"e", EXCHANGE)
            other = {"d": "e", "e": "d"}
            moved = {}
            for path, file in self._files.items():
                directory, slash, name = path.rpartition("/")
                moved[other.get(directory, directory) + slash + name] = file
            if moved.pop("e/b", None) is not None:  # not among the names
                await fs.unlink(request(), *await self._place("e/b"))
            self._files = moved

    async def _list(self) -> None:
        directory = self._choose("", "d", "e")
        ino = await self._look(directory) if directory else ROOT
        if ino is not None:
            await self._volume.fs.readdir(self._volume.request(), ino, 0, 0, 100, False)

    async def _caller(self) -> None:
        does = [self._write] * 6 + [self._check] * 4 + [self._rename] * 5
        does += [self._unlink] * 2 + [self._list] * 2 + [self._swap_directories]
        for _ in range(CALLS):
            await self._choose(*does)()
            await self._pause()

    # -- the whole -----------------------------------------------------------------------------

    async def _callers(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))

    def run(self) -> None:
        volume = self._volume
        try:
            for name in (b"d", b"e"):
                volume.run(volume.fs.mkdir(volume.request(), ROOT, name, 0o755))
            for _ in range(self._choose(1, 2)):
                volume.run(self._callers())
                volume.turn(self._choose(0, 1, 5))
                if self._chance(0.4):
                    self._die()
            volume.run(volume.fs.let_go())  # of what is kept for who opens it late
            volume.stop()
            self._check_store()
            volume.start(taken_over=False)
            volume.run(self._check_all())
            volume.stop()
        finally:
            volume.kernel.close()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _die(self) -> None:
        volume = self._volume
        if self._chance(0.5):
            volume.store.dies_in = self._choose(1, 2, 3)
            volume.turn(40)
        volume.die()
        volume.start(taken_over=True)
        self._slow_store()
        self._new_locks()

    def _check_store(self) -> None:
        found = {key: body for key, body in self._volume.objects().items() if key[-1] != "/"}
        assert found.keys() == self._files.keys()
        for path, file in self._files.items():
            assert found[path] == file.data, f"{path}: {_brief(found[path])} stored"
        assert self._volume.events.conflicts == 0
        assert not list((self._directory / "cache").glob("staging/*/*"))

    async def _check_all(self) -> None:
        for path, file in self._files.items():
            ino = await self._look(path)
            assert ino is not None, f"{path} is gone"
            opened = await self._open(path, file, ino, os.O_RDONLY)
            assert opened is not None
            await self._same(path, file, ino, opened)
            await self._volume.fs.release(self._volume.request(), ino, opened.fh)


def _brief(data: bytes) -> str:
    return f"{data[:12]!r}.. of {len(data)} bytes"
