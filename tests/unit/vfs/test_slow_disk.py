"""A disk that holds up whoever writes to it: with no passthrough that is the worker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.content import pace as pace_module
from csi_slayer.content import staged
from csi_slayer.content.pace import Pace, pace
from csi_slayer.vfs.types import SetAttr
from tests.unit.vfs.calls import ThreadGate, begin, create, read
from tests.unit.vfs.harness import Volume


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    volume.live.quota = 1000
    return volume


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    vars(pace).update(vars(Pace()))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the test takes."""
    monkeypatch.setattr(pace_module, "SLOW", 1.0)
    monkeypatch.setattr(pace_module, "REMEMBERED", 1000.0)
    pace.took(1.0)
    pace.took(1.0)


def test_a_disk_is_slow_that_held_up_two_writes_within_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one in each new cache, which had to read a map of free inodes, the cold walk was a quarter
    slower."""
    now = 100.0
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(pace_module, "SLOW", 0.01)
    for seconds in (0.009, 0.01, 0.009):
        pace.took(seconds)
        assert not pace.is_slow
    now += 1.1
    pace.took(0.01)
    assert not pace.is_slow
    now += 0.9
    pace.took(0.01)
    assert pace.is_slow
    now += 0.9
    pace.took(0.01)
    now += 0.9
    assert pace.is_slow, "it still was, less than a second ago"
    now += 0.2
    assert not pace.is_slow


def test_a_disk_is_slow_of_which_each_write_takes_longer_than_that_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(pace_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(pace_module, "SLOW", 0.01)
    pace.took(2.0)
    assert not pace.is_slow
    now += 2.0
    pace.took(2.0)
    assert pace.is_slow


@pytest.mark.usefixtures("slow")
def test_others_go_on_while_a_write_is_held_up(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They all waited with it, up to 170 ms each time on a disk of 43 MB/s."""
    fs, gate = volume.fs, ThreadGate(volume, os.pwrite)

    async def run() -> None:
        other = await create(volume, b"other", b"x")
        ino, to = await begin(volume, b"f", b"")
        monkeypatch.setattr(staged.os, "pwrite", gate)
        data = memoryview(b"y" * 700)
        writing = asyncio.create_task(fs.write(volume.request(), ino, to.fh, 0, data))
        await gate.reached.wait()
        assert (await fs.getattr(volume.request(), other, None))[0].size == 1
        assert not writing.done()
        assert fs.catalog.used_bytes == 701, "what it is about to have is counted"
        gate.let_go()
        assert await writing == 700
        monkeypatch.undo()
        await fs.flush(volume.request(), ino, to.fh)
        await fs.release(volume.request(), ino, to.fh)
        assert await read(volume, ino) == data

    volume.loop.threaded = True
    volume.run(run())
    volume.stop()


@pytest.mark.usefixtures("slow")
def test_a_file_is_not_let_go_of_while_a_write_to_it_is_held_up(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor's number would be another file's; the killed program's write is as long under
    way as a local disk's, and what it has written counts."""
    fs, gate = volume.fs, ThreadGate(volume, os.pwrite)

    async def run() -> None:
        ino, to = await begin(volume, b"f", b"")
        monkeypatch.setattr(staged.os, "pwrite", gate)
        writing = asyncio.create_task(
            fs.write(volume.request(), ino, to.fh, 0, memoryview(b"y" * 700))
        )
        await gate.reached.wait()
        writing.cancel()
        closing = asyncio.create_task(fs.release(volume.request(), ino, to.fh))
        await asyncio.sleep(0)
        gate.let_go()
        await asyncio.gather(writing, closing, return_exceptions=True)
        assert writing.cancelled()
        monkeypatch.undo()
        assert fs.catalog.used_bytes == 700
        assert await read(volume, ino) == b"y" * 700

    volume.loop.threaded = True
    volume.run(run())
    volume.stop()
    assert volume.objects() == {"f": b"y" * 700}


@pytest.mark.usefixtures("slow")
def test_the_parts_of_an_append_follow_each_other(volume: Volume) -> None:
    """Without O_DIRECT they come all at once of an asynchronous write to a handle of mode DIRECT:
    the second went where the first was about to go, for the file was not longer yet."""
    fs = volume.fs

    async def run() -> None:
        ino, to = await begin(volume, b"f", b"old")
        parts = [b"a" * 300, b"b" * 300, b"c" * 100]
        for known in (True, False):  # whether the kernel knows the end
            have = await read(volume, ino)
            at = len(have) if known else 1
            writes = []
            for part in parts if known else [b"d" * 50, b"e" * 50]:
                have += part
                writes.append(fs.write(volume.request(), ino, to.fh, at, memoryview(part), True))
                at += len(part)
            await asyncio.gather(*writes)
            assert await read(volume, ino) == have
        await fs.flush(volume.request(), ino, to.fh)
        await fs.release(volume.request(), ino, to.fh)

    volume.loop.threaded = True
    volume.run(run())
    volume.stop()


def test_two_writes_that_take_long_leave_the_next_to_a_thread(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside: list[int] = []
    real = staged.StagedFile.write_aside

    async def note(file: staged.StagedFile, offset: int, data: memoryview) -> int:
        aside.append(offset)
        return await real(file, offset, data)

    monkeypatch.setattr(staged.StagedFile, "write_aside", note)
    monkeypatch.setattr(pace_module, "SLOW", 0.0)  # any write is
    monkeypatch.setattr(pace_module, "REMEMBERED", 1000.0)
    fs = volume.fs

    async def run() -> None:
        ino, to = await begin(volume, b"f", b"x" * 10)
        await fs.write(volume.request(), ino, to.fh, 10, memoryview(b"y" * 10))
        assert aside == []
        await fs.write(volume.request(), ino, to.fh, 20, memoryview(b"z" * 10))
        assert aside == [20]
        await fs.setattr(volume.request(), ino, SetAttr(size=15))
        await fs.flush(volume.request(), ino, to.fh)
        await fs.release(volume.request(), ino, to.fh)
        assert await read(volume, ino) == b"x" * 10 + b"y" * 5

    volume.run(run())
    volume.stop()
