"""Opens that wait for the whole file, so that the kernel reads it by itself."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import segment as segment_module
from csi_slayer.catalog import ROOT
from csi_slayer.content.ranges import as_bytes
from csi_slayer.errors import StoreIntegrityError, StoreUnavailable
from csi_slayer.scheduling import whole
from csi_slayer.vfs import opening as opening_module
from csi_slayer.vfs.base import NameMoved
from csi_slayer.vfs.types import Opened
from tests.unit.vfs.calls import Gate
from tests.unit.vfs.harness import Volume
from tests.unit.vfs.memory_store import Blob
from tests.unit.vfs.test_cancelled import cancelled

BODY = os.urandom((3 << 20) + 77)
OTHER = os.urandom((2 << 20) + 5)
WAIT = 30.0


def waiting(
    root: Path, *, passthrough: bool = True, wait: float | None = WAIT, **options: Any
) -> Volume:
    volume = Volume(root, passthrough=passthrough, ttl=3600, **options)
    volume.live.open_wait = wait
    volume.bucket.objects["f"] = Blob(BODY, '"one"', 10**18, {})
    return volume


async def find(volume: Volume, name: bytes = b"f") -> int:
    entry = await volume.fs.lookup(volume.request(), ROOT, name)
    assert entry.attr is not None
    return entry.attr.ino


async def opening(volume: Volume, ino: int, flags: int = os.O_RDONLY) -> Opened:
    return await volume.fs.open(volume.request(), ino, flags)


def content(volume: Volume, ino: int, opened: Opened) -> bytes:
    return volume.read(ino, opened, 0, 4 << 20)


def release(volume: Volume, ino: int, opened: Opened) -> None:
    volume.run(volume.fs.release(volume.request(), ino, opened.fh))


def test_the_kernel_reads_all_of_it_by_itself(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    opened = volume.run(opening(volume, ino))
    assert volume.is_past_us(opened)
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


def test_opens_do_not_wait_unless_they_are_told_to(tmp_path: Path) -> None:
    volume = waiting(tmp_path, wait=0)
    ino = volume.run(find(volume))
    opened = volume.run(opening(volume, ino))
    assert not volume.is_past_us(opened)
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    again = volume.run(opening(volume, ino))
    assert volume.is_past_us(again)
    release(volume, ino, again)
    volume.stop()


@pytest.mark.parametrize("why", ["no passthrough", "more than a segment"])
def test_nothing_is_fetched_for_what_the_kernel_cannot_read(tmp_path: Path, why: str) -> None:
    volume = waiting(
        tmp_path,
        passthrough=why != "no passthrough",
        segment_max=1 << 20 if why == "more than a segment" else 1 << 30,
    )
    ino = volume.run(find(volume))
    gate = Gate(volume, "fetch")
    opened = volume.run(opening(volume, ino))
    assert not gate.reached.is_set()
    gate.open.set()
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


def test_what_does_not_come_in_time_is_read_as_it_comes(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    gate = Gate(volume, "fetch")
    began = volume.loop.time()
    opened = volume.run(opening(volume, ino))
    assert volume.loop.time() - began == pytest.approx(WAIT, abs=1)
    assert not volume.is_past_us(opened)

    async def reading() -> bytes:
        call = volume.fs.read(volume.request(), ino, opened.fh, 0, 4 << 20)
        task = asyncio.ensure_future(call)
        await asyncio.sleep(1)
        assert not task.done()
        gate.open.set()
        return as_bytes(await task)

    assert volume.run(reading()) == BODY
    # One who comes while it is open so does not wait: the kernel takes one way for an inode.
    beside = volume.run(opening(volume, ino))
    assert not volume.is_past_us(beside)
    release(volume, ino, beside)
    release(volume, ino, opened)
    volume.stop()


def test_a_store_that_is_away_is_for_the_reads_to_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))

    async def away(*_args: object, **_values: object) -> None:
        raise StoreUnavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "fetch", away)
        opened = volume.run(opening(volume, ino))
        assert not volume.is_past_us(opened)
        with pytest.raises(StoreUnavailable):
            content(volume, ino, opened)
    volume.run(asyncio.sleep(1))
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


def test_a_file_that_others_replace_meanwhile_is_opened_as_it_is_then(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    gate = Gate(volume, "fetch")

    async def scenario() -> None:
        task = asyncio.ensure_future(opening(volume, ino))
        await gate.reached.wait()
        volume.bucket.objects["f"] = Blob(OTHER, '"two"', 2 * 10**18, {})
        gate.open.set()
        with pytest.raises(NameMoved):  # the kernel looks the name up again, and opens that
            await task

    volume.run(scenario())
    now = volume.run(find(volume))
    opened = volume.run(opening(volume, now))
    assert now != ino
    assert volume.is_past_us(opened)
    assert content(volume, now, opened) == OTHER
    release(volume, now, opened)
    volume.stop()


def test_several_who_open_it_wait_for_the_same_transfers(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    fetched: list[tuple[int, int]] = []
    fetch = volume.store.fetch

    async def counted(*args: Any, **values: Any) -> None:
        fetched.append((values["offset"], values["length"]))
        await fetch(*args, **values)

    volume.store.fetch = counted  # type: ignore[method-assign]

    async def scenario() -> list[Opened]:
        return await asyncio.gather(*(opening(volume, ino) for _ in range(5)))

    handles = volume.run(scenario())
    assert sum(length for _offset, length in fetched) == len(BODY)
    for opened in handles:
        assert volume.is_past_us(opened)
        assert content(volume, ino, opened) == BODY
        release(volume, ino, opened)
    volume.stop()


def test_who_writes_meanwhile_writes_after_it(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    gate = Gate(volume, "fetch")

    async def scenario() -> tuple[Opened, Opened]:
        reading = asyncio.ensure_future(opening(volume, ino))
        await gate.reached.wait()
        writing = asyncio.ensure_future(opening(volume, ino, os.O_RDWR))
        await asyncio.sleep(1)
        assert not writing.done()
        gate.open.set()
        return await reading, await writing

    reader, writer = volume.run(scenario())
    volume.write(ino, writer, 1, b"new")
    after = BODY[:1] + b"new" + BODY[4:]
    assert content(volume, ino, reader) == after
    volume.run(volume.fs.flush(volume.request(), ino, writer.fh))
    for opened in (reader, writer):
        release(volume, ino, opened)
    volume.stop()
    assert volume.objects() == {"f": after}


def test_nothing_is_left_of_one_that_is_interrupted(tmp_path: Path) -> None:
    turns, again = 0, True
    while again:
        root = tmp_path / str(turns)
        root.mkdir()
        volume = waiting(root)
        ino = volume.run(find(volume))
        again = volume.run(cancelled(opening(volume, ino), turns))
        fs = volume.fs
        for handle in list(fs.handles):
            volume.run(fs.release(volume.request(), ino, handle.fh))
        volume.run(asyncio.sleep(1))
        assert len(fs.opened) == len(fs.handles) == len(volume.kernel.backing) == 0
        assert not volume.cache.shared.opened
        opened = volume.run(opening(volume, ino))
        assert volume.is_past_us(opened)
        assert content(volume, ino, opened) == BODY
        release(volume, ino, opened)
        volume.stop()
        turns += 1
    assert turns > 5


def test_one_that_a_killed_worker_waited_for_is_answered_by_the_next(tmp_path: Path) -> None:
    volume = waiting(tmp_path)
    ino = volume.run(find(volume))
    request = volume.request()
    gate = Gate(volume, "fetch")

    async def scenario() -> None:
        task = asyncio.ensure_future(volume.fs.open(request, ino, os.O_RDONLY))
        await gate.reached.wait()
        assert not task.done()

    volume.run(scenario())
    volume.die()
    volume.start(taken_over=True)
    opened = volume.run(volume.fs.open(request._replace(resent=True), ino, os.O_RDONLY))
    assert volume.is_past_us(opened)
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few MiB count as large."""
    monkeypatch.setattr(opening_module, "LARGE", 1 << 20)
    monkeypatch.setattr(whole, "LARGE", 1 << 20)


@pytest.mark.usefixtures("large")
def test_if_nobody_said_how_long_large_files_that_are_read_whole_are_waited_for(
    tmp_path: Path,
) -> None:
    volume = waiting(tmp_path, wait=None)
    past_us = []
    reads = (BODY, b"", BODY[: 1 << 20], BODY, BODY, BODY)
    for number in range(len(reads)):
        volume.bucket.objects[f"f{number}"] = Blob(BODY, '"one"', 10**18, {})
    for number, read in enumerate(reads):
        ino = volume.run(find(volume, b"f%d" % number))
        opened = volume.run(opening(volume, ino))
        past_us.append(volume.is_past_us(opened))
        if read:
            assert volume.read(ino, opened, 0, len(read)) == read
            volume.run(asyncio.sleep(1))
        release(volume, ino, opened)
    # The second one was closed at once, of the third and fourth the worker has seen how much was
    # read, and the fifth is the trial.
    assert past_us == [True, True, False, False, False, True]
    volume.stop()


@pytest.mark.parametrize("why", ["small", "no prefetch"])
def test_if_nobody_said_how_long_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    volume = waiting(tmp_path, wait=None)
    if why == "no prefetch":
        volume.live.prefetch = False
        monkeypatch.setattr(opening_module, "LARGE", 1 << 20)
    ino = volume.run(find(volume))
    gate = Gate(volume, "fetch")
    opened = volume.run(opening(volume, ino))
    assert not volume.is_past_us(opened) and not gate.reached.is_set()
    gate.open.set()
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


@pytest.mark.usefixtures("large")
def test_a_store_that_is_slow_is_not_waited_for(tmp_path: Path) -> None:
    volume = waiting(tmp_path, wait=None)
    ino = volume.run(find(volume))
    gate, began = Gate(volume, "fetch"), volume.loop.time()
    opened = volume.run(opening(volume, ino))
    assert volume.loop.time() - began < 1
    assert not volume.is_past_us(opened) and gate.reached.is_set()
    gate.open.set()
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


@pytest.mark.usefixtures("large")
def test_where_there_is_not_the_memory_for_one_none_is_waited_for_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = waiting(tmp_path, wait=None)
    monkeypatch.setattr(whole, "FIRST_TRIAL", whole.TRIAL)  # never
    past_us, gate = [], Gate(volume, "fetch")
    answers = iter((0, -1, -1, -1))  # at first all is there that "a" has, and of "d" never
    volume.bucket.objects |= {name: Blob(BODY, '"one"', 10**18, {}) for name in "abcde"}
    for name in "abcde":
        ino = volume.run(find(volume, name.encode()))
        with monkeypatch.context() as patch:
            if name in "ad":
                patch.setattr(segment_module, "resident", lambda _fd, _length: next(answers))
            if name == "c":
                volume.run(asyncio.sleep(opening_module.PAUSE))
            opened = volume.run(opening(volume, ino))
        past_us.append(volume.is_past_us(opened))
        gate.open.set()
        assert content(volume, ino, opened) == BODY
        volume.run(asyncio.sleep(1))
        release(volume, ino, opened)
    assert past_us == [False, False, True, True, True]
    volume.stop()


@pytest.mark.usefixtures("large")
def test_what_an_open_waits_for_goes_through_the_page_cache(tmp_path: Path) -> None:
    """Where memory is dear it would have to come back from the disk."""
    volume = waiting(tmp_path, wait=None)
    shared = volume.fs.content.cache.shared
    shared.direct.now = True
    ino = volume.run(find(volume))
    opened = volume.run(opening(volume, ino))
    assert volume.is_past_us(opened) and shared.fresh.made == 0
    release(volume, ino, opened)
    volume.stop()


@pytest.mark.usefixtures("large")
def test_without_an_answer_of_the_store_the_reads_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = waiting(tmp_path, wait=None)
    ino = volume.run(find(volume))

    async def away(*_args: object, **_values: object) -> None:
        raise StoreUnavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(volume.store, "fetch", away)
        opened = volume.run(opening(volume, ino))
        assert not volume.is_past_us(opened)
    volume.run(asyncio.sleep(1))
    assert content(volume, ino, opened) == BODY
    release(volume, ino, opened)
    volume.stop()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("wait", [None, 0.0, WAIT])
def test_of_what_the_store_has_in_part_that_part_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: float | None
) -> None:
    volume = waiting(tmp_path, wait=wait)
    volume.bucket.objects["f"] = Blob(bytes(48 << 20) + BODY, '"one"', 10**18, {})
    ino = volume.run(find(volume))
    fetch = volume.store.fetch

    def damaged(*args: Any, **values: Any) -> Any:
        if values["offset"] + values["length"] > 48 << 20:
            raise StoreIntegrityError("it ends too soon")
        return fetch(*args, **values)

    monkeypatch.setattr(volume.store, "fetch", damaged)
    opened = volume.run(opening(volume, ino))
    assert volume.read(ino, opened, 0, 4096) == bytes(4096)
    with pytest.raises(StoreIntegrityError):
        volume.read(ino, opened, 48 << 20, 4096)
    volume.stop()
