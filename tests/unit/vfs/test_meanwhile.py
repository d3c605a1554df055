"""What happens here while a request to the store is under way."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT, Mark
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.staged import StagedFile
from csi_slayer.errors import FsError
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import LARGE, Gate, begin, create, read
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob


@pytest.mark.parametrize("durability", ["close", "fsync"])
@pytest.mark.parametrize("posix", [False, True])
def test_a_file_opened_for_writing_while_it_is_copied(
    tmp_path: Path, durability: str, posix: bool
) -> None:
    """What is partly staged stays known as such: the other part is in the object alone."""
    volume = Volume(
        tmp_path, passthrough=False, ttl=3600, hydrate_max=0, part_size=256 << 10,
        durability=durability, posix=posix,
    )  # fmt: skip
    big = LARGE * 3

    async def run() -> int:
        fs = volume.fs
        ino = await create(volume, b"a", big)
        assert await fs.drain(2.0) == 0
        for path in (tmp_path / "cache").rglob("*"):  # nothing of it is cached
            if path.is_file() and path.stat().st_size >= len(big):
                path.unlink()
        gate = Gate(volume, "copy")
        if posix:
            await fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
        else:
            await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        await gate.reached.wait()
        opened = await fs.open(volume.request(), ino, os.O_RDWR)
        assert (await fs.catalog.get(ino)).flags & Mark.OVERLAY
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"new"))
        gate.open.set()
        for _ in range(20):
            await asyncio.sleep(0.01)
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)
        assert await fs.drain(2.0) == 0
        return ino

    ino = volume.run(run())
    wanted = b"new" + big[3:]
    assert volume.objects() == {"a" if posix else "b": wanted}
    assert volume.run(read(volume, ino)) == wanted
    volume.stop()


@pytest.mark.parametrize("posix", [False, True])
def test_attributes_set_during_an_upload(tmp_path: Path, posix: bool) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=posix)

    async def run() -> int:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"one")
        gate = Gate(volume, "put")
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, opened.fh))
        await gate.reached.wait()
        await fs.setxattr(volume.request(), ino, b"user.x", b"value", 0)
        await fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
        gate.open.set()
        await flush
        await fs.release(volume.request(), ino, opened.fh)
        return ino

    ino = volume.run(run())
    assert volume.run(volume.fs.getxattr(volume.request(), ino, b"user.x")) == b"value"
    volume.stop()
    if posix:
        assert int(volume.bucket.objects["a"].metadata["mode"]) & 0o777 == 0o600
        assert "slayerfs-xattrs" in volume.bucket.objects["a"].metadata


def test_a_time_that_is_set_again_hides_no_write(tmp_path: Path) -> None:
    """Written and dated as before, while the upload of what was there before is under way."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    date = SetAttr(mtime_ns=10**18)

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"one")
        await fs.setattr(volume.request(), ino, date)
        gate = Gate(volume, "put")
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, opened.fh))
        await gate.reached.wait()
        await fs.write(volume.request(), ino, opened.fh, 0, memoryview(b"two"))
        await fs.setattr(volume.request(), ino, date)
        gate.open.set()
        await flush
        await fs.flush(volume.request(), ino, opened.fh)
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"a": b"two"}


@pytest.mark.parametrize("listed", [False, True])
def test_a_file_made_in_a_directory_that_is_gone(tmp_path: Path, listed: bool) -> None:
    """Whoever works in it is told, and does not write into nowhere."""
    volume = Volume(tmp_path, passthrough=False, ttl=0)
    volume.bucket.objects["d/x"] = Blob(b"x", '"x"', 10**18, {})

    async def run() -> None:
        fs = volume.fs
        entry = await fs.lookup(volume.request(), ROOT, b"d")
        assert entry.attr is not None
        d = entry.attr.ino
        await fs.readdir(volume.request(), d, 0, 0, 10, False)
        del volume.bucket.objects["d/x"]
        if listed:
            await fs.readdir(volume.request(), d, 0, 0, 10, False)
        else:
            await fs.readdir(volume.request(), ROOT, 0, 0, 10, False)
        with pytest.raises(FsError) as refused:
            await create(volume, b"f", b"data", parent=d)
        assert refused.value.errno == errno.ENOENT

    volume.run(run())
    volume.stop()


def test_a_file_is_closed_while_it_is_renamed(tmp_path: Path) -> None:
    """Whatever name it has by then: the store has the object when the close returns."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"one")
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, opened.fh))
        await asyncio.sleep(0)
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        await flush
        assert b"one" in volume.objects().values()
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"b": b"one"}


def test_files_that_swap_their_names_are_no_conflict(tmp_path: Path) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.run(create(volume, b"a", b"one"))
    volume.run(create(volume, b"b", b"twoo"))
    volume.run(volume.fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 2))
    volume.stop()
    assert volume.objects() == {"b": b"one", "a": b"twoo"}
    assert volume.events.conflicts == 0


def test_a_file_is_renamed_while_its_attributes_are_stored(tmp_path: Path) -> None:
    """The object that is copied onto itself meanwhile is still ours, and goes."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600, posix=True)

    async def run() -> None:
        fs = volume.fs
        ino, opened = await begin(volume, b"a", b"one")
        await fs.flush(volume.request(), ino, opened.fh)
        gate = Gate(volume, "copy")
        await fs.setattr(volume.request(), ino, SetAttr(mode=0o600))
        flush = asyncio.ensure_future(fs.flush(volume.request(), ino, opened.fh))
        await gate.reached.wait()
        await fs.rename(volume.request(), ROOT, b"a", ROOT, b"b", 0)
        gate.open.set()
        await flush
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"b": b"one"}


def test_who_opens_for_writing_is_killed_while_what_was_read_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The staged copy is there already: it belongs to the open file, nobody else would close it."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)

    async def run() -> None:
        fs, closing = volume.fs, asyncio.Event()
        ino = await create(volume, b"a", b"content")
        assert await fs.drain(2.0) == 0

        async def never(file: CleanFile) -> None:
            closing.set()
            await asyncio.Event().wait()

        async with fs.opened.held(ino) as record:
            record.file = await fs.content.open_clean(await fs.catalog.get(ino))
            with monkeypatch.context() as patch:
                patch.setattr(CleanFile, "close", never)
                opening = asyncio.ensure_future(
                    fs.open(volume.request(), ino, os.O_WRONLY | os.O_TRUNC)
                )
                await closing.wait()
                opening.cancel()
                await asyncio.wait((opening,))
            assert isinstance(record.file, StagedFile)
        assert await fs.drain(2.0) == 0

    volume.run(run())
    volume.stop()
    assert volume.objects() == {"a": b""}, "it was emptied before that"
