"""Each statement of the catalog in turn finds no room on its disk, once, or each request to the
store fails, before its effect or after it: the file system, the store and a later worker agree
afterwards."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.catalog import ROOT
from csi_slayer.errors import SlayerError, StoreUnavailable
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import begin, read
from tests.unit.vfs.harness import DRAIN, Volume
from tests.unit.vfs.memory_store import Blob, MemoryStore

LARGE = os.urandom(300_000)
PART = 1 << 16
EXCHANGE = 2
CHANGES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "COMMIT")


class Disk(sqlite3.Connection):
    """After so many changing statements that are ``left`` one finds no room, or (``stays_full``)
    none of those that follow does."""

    left = sys.maxsize
    stays_full = False

    def _look(self, sql: str) -> None:
        Disk.left -= sql.startswith(CHANGES)
        if (Disk.left == -1 or (Disk.left < 0 and Disk.stays_full)) and sql.startswith(CHANGES):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._look(sql)
        return super().execute(sql, *args)

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._look(sql)
        return super().executemany(sql, *args)


class Requests:
    """After so many requests that are ``left`` one fails, although (``after``) it was done."""

    NAMES = (
        "head", "list_page", "get", "fetch", "put", "put_file", "create_multipart", "upload_part",
        "upload_part_copy", "complete_multipart", "abort_multipart", "copy", "delete",
        "delete_many",
    )  # fmt: skip

    def __init__(self, store: MemoryStore, left: int, *, after: bool) -> None:
        self.left = left
        self._after = after
        self._undo = [(name, getattr(store, name)) for name in self.NAMES]
        self._store = store
        for name, call in self._undo:
            setattr(store, name, self._counted(call))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **values: Any) -> Any:
            self.left -= 1
            if self.left != -1:
                return await call(*args, **values)
            if self._after:
                await call(*args, **values)
            raise StoreUnavailable("no answer")

        return counted

    def remove(self) -> None:
        for name, call in self._undo:
            setattr(self._store, name, call)


class Steps:
    """What programs do one after the other, each step of which may fail."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.fs = volume.fs
        self.errors: list[int] = []

    async def take(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except SlayerError as error:
            self.errors.append(error.errno)
            return None

    async def ino(self, name: bytes, parent: int = ROOT) -> int | None:
        entry = await self.take(self.fs.lookup(self.volume.request(), parent, name))
        return None if entry is None or entry.attr is None else entry.attr.ino

    async def write(self, name: bytes, flags: int = os.O_RDWR) -> None:
        ino = await self.ino(name)
        if ino is None:
            return
        request = self.volume.request
        opened = await self.take(self.fs.open(request(), ino, flags))
        if opened is not None:
            data = memoryview(b"new")
            await self.take(self.fs.write(request(), ino, opened.fh, 5, data))
            await self.take(self.fs.flush(request(), ino, opened.fh))
            await self.take(self.fs.release(request(), ino, opened.fh))


Scene = Callable[[Steps], Awaitable[None]]


async def made(s: Steps) -> None:
    found = await s.take(begin(s.volume, b"new", b"bytes"))
    if found is not None:
        ino, opened = found
        await s.take(s.fs.flush(s.volume.request(), ino, opened.fh))
        await s.take(s.fs.release(s.volume.request(), ino, opened.fh))


async def changed(s: Steps) -> None:
    await s.write(b"small")


async def changed_in_part(s: Steps) -> None:
    await s.write(b"large")


async def emptied(s: Steps) -> None:
    await s.write(b"large", os.O_RDWR | os.O_TRUNC)


async def attributes(s: Steps) -> None:
    if (ino := await s.ino(b"small")) is not None:
        await s.take(s.fs.setattr(s.volume.request(), ino, SetAttr(mode=0o600, size=4)))
        await s.take(s.fs.setxattr(s.volume.request(), ino, b"user.a", b"b", 0))
        await s.take(s.fs.removexattr(s.volume.request(), ino, b"user.a"))


async def directories(s: Steps) -> None:
    req = s.volume.request
    await s.take(s.fs.mkdir(req(), ROOT, b"made", 0o755))
    await s.take(s.fs.symlink(req(), ROOT, b"link", b"small"))
    await s.take(s.fs.rename(req(), ROOT, b"d", ROOT, b"e", 0))
    await s.take(s.fs.rmdir(req(), ROOT, b"made"))


async def names(s: Steps) -> None:
    req = s.volume.request
    await s.take(s.fs.rename(req(), ROOT, b"small", ROOT, b"other", 0))
    await s.take(s.fs.rename(req(), ROOT, b"large", ROOT, b"other", EXCHANGE))
    await s.take(s.fs.unlink(req(), ROOT, b"large"))


async def unlinked_while_open(s: Steps) -> None:
    if (ino := await s.ino(b"small")) is None:
        return
    opened = await s.take(s.fs.open(s.volume.request(), ino, os.O_RDWR))
    await s.take(s.fs.unlink(s.volume.request(), ROOT, b"small"))
    if opened is not None:
        await s.take(s.fs.release(s.volume.request(), ino, opened.fh))


async def others(s: Steps) -> None:
    """They change what is being written here."""
    found = await s.take(begin(s.volume, b"theirs", b"ours"))
    s.volume.bucket.objects["theirs"] = Blob(b"theirs", '"t"', 10**18 + 9, {})
    if found is not None:
        await s.take(s.fs.release(s.volume.request(), found[0], found[1].fh))


SCENES: list[Scene] = [
    made, changed, changed_in_part, emptied, attributes, directories, names, unlinked_while_open,
    others,
]  # fmt: skip


async def tree(volume: Volume, ino: int = ROOT, path: str = "") -> dict[str, bytes]:
    """All files as programs see them."""
    found: dict[str, bytes] = {}
    for item in await volume.fs.readdir(volume.request(), ino, 0, 2, 99, False):
        name = path + item.name.decode()
        entry = await volume.fs.lookup(volume.request(), ino, item.name)
        assert entry.attr is not None
        if entry.attr.mode & 0o170000 == 0o040000:
            found |= {name + "/": b""} | await tree(volume, entry.attr.ino, name + "/")
        elif entry.attr.mode & 0o170000 == 0o120000:
            found[name] = b""
        else:
            found[name] = await read(volume, entry.attr.ino)
    return found


@pytest.mark.parametrize("fault", ["disk", "disk stays full", "request", "answer"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_all_agree_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, fault: str
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **v: connect(*a, factory=Disk, **v))
    for number in itertools.count():
        if not play(tmp_path / str(number), monkeypatch, scene, fault, number):
            break
    assert number


def play(
    root: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene, fault: str, number: int
) -> bool:
    """Whether there is a statement or a request of that number."""
    root.mkdir()
    volume = Volume(
        root, passthrough=False, ttl=3600, durability="close", hydrate_max=100, posix=True,
        part_size=PART,
    )  # fmt: skip
    volume.bucket.objects |= {
        "small": Blob(b"0123456789", '"one"', 10**18, {}),
        "large": Blob(LARGE, '"two"', 10**18, {}),
        "d/f": Blob(b"in d", '"three"', 10**18, {}),
    }
    volume.run(tree(volume))
    steps = Steps(volume)

    async def run() -> None:
        await scene(steps)
        await asyncio.sleep(30)

    if fault.startswith("disk"):
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "stays_full", fault != "disk")
            patch.setattr(Disk, "left", number)
            volume.run(run())
            left = Disk.left
        assert set(steps.errors) <= {errno.ENOSPC, errno.ENOENT, errno.ESTALE, errno.ENODATA}
    else:
        requests = Requests(volume.store, number, after=fault == "answer")
        volume.run(run())
        requests.remove()
        left = requests.left
        assert set(steps.errors) <= {errno.EIO, errno.ENOENT, errno.ESTALE}
    assert volume.run(volume.fs.drain(DRAIN)) == 0
    volume.turn(5)
    assert len(volume.fs.opened) == len(volume.fs.handles) == 0
    shown = volume.run(tree(volume))
    files = {key: body for key, body in shown.items() if not key.endswith("/")}
    objects = {key: body for key, body in volume.objects().items() if not key.endswith("/")}
    if "theirs" not in shown:
        objects.pop("theirs", None)  # not known here: none of that name was made
    assert objects == files
    assert volume.events.conflicts == (scene is others and "theirs" in shown)
    assert volume.catalog.used_bytes == volume.catalog.used_now()
    volume.turn(1000)
    volume.die()
    volume.start(taken_over=False)
    assert volume.run(tree(volume)) == shown
    volume.stop()
    assert len(volume.bucket.uploads) <= (fault == "answer")  # the one whose id was lost
    return left < 0
