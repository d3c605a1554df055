"""A changed large object is, byte for byte, what a bytearray would be, at every moment."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csi_slayer.content import overlay
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.ranges import ReadResult, as_bytes
from csi_slayer.content.small import Source
from csi_slayer.content.staged import fallocate
from csi_slayer.errors import CacheCorrupt, CacheFull, FsError

SMALL_BLOCK = 16
MOST = 120


class FakeClean:
    """An object: what OverlayFile uses of CleanFile."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.closed = False
        self.source = Source("key", "etag", len(content))

    @property
    def size(self) -> int:
        return self.source.size

    def end_at(self, size: int) -> None:
        assert size <= len(self.content)
        self.source = self.source._replace(size=size)

    async def read(self, offset: int, size: int) -> ReadResult:
        await asyncio.sleep(0)
        return self.content[offset : offset + size]

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True, scope="module")
def _small_blocks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlay, "BLOCK", SMALL_BLOCK)
        patch.setattr(overlay, "_GROW", 2)  # so that the map has to grow
        yield


def open_overlay(path: Path, base: FakeClean) -> OverlayFile:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    return OverlayFile("stage", str(path), fd, base)  # type: ignore[arg-type]


offsets = st.integers(0, MOST)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, st.binary(min_size=1, max_size=50)),
        st.tuples(st.just("read"), offsets, st.integers(1, 60)),
        st.tuples(st.just("truncate"), offsets, st.none()),
        st.tuples(st.just("zero"), offsets, st.integers(1, 60)),
        st.tuples(st.just("bring"), offsets, st.integers(1, 60)),
        st.tuples(st.just("reopen"), st.none(), st.none()),
        st.tuples(st.just("uploaded"), st.none(), st.none()),
        st.tuples(st.just("sent"), st.none(), st.none()),
        st.tuples(st.just("answered"), st.none(), st.none()),
    ),
    max_size=30,
)


async def check(path: Path, content: bytes, todo: list[tuple[str, Any, Any]]) -> None:
    model = bytearray(content)
    base = FakeClean(content)
    file = open_overlay(path, base)
    sent: bytes | None = None
    for name, offset, value in todo:
        if name == "write":
            if offset > len(model):
                model.extend(bytes(offset - len(model)))
            model[offset : offset + len(value)] = value
            assert await file.write(offset, memoryview(value)) == len(value)
        elif name == "read":
            got = as_bytes(await file.read(offset, value))
            assert got == bytes(model[offset : offset + value])
        elif name == "truncate":
            del model[offset:]
            model.extend(bytes(offset - len(model)))
            await file.truncate(offset)
        elif name == "zero":
            end = min(offset + value, len(model))
            if offset < end:
                model[offset:end] = bytes(end - offset)
                await file.zero(offset, end)
        elif name == "bring":
            await file.bring_range(offset, value)
        elif name == "reopen":  # the worker died: another one finds stage and map
            await file.close()
            base = FakeClean(base.content)
            base.source = base.source._replace(size=len(model))  # the catalog knows no other
            file = open_overlay(path, base)
            assert base.size == len(base.content), "the cache has a segment of that size"
        elif name == "sent":  # an upload begins; its answer comes when more was written
            sent = bytes(model)
        elif name == "answered":
            if sent is not None:
                base, sent = FakeClean(sent), None
                file.rebase(base, unchanged=False)  # type: ignore[arg-type]
        else:
            sent = None
            base = FakeClean(bytes(model))
            assert file.rebase(base, unchanged=True) is not base  # type: ignore[arg-type]
        assert file.size == len(model)
        assert not file.is_whole or os.pread(file.fd, len(model) + 1, 0) == bytes(model)
        for start in range(0, len(model), SMALL_BLOCK):
            length = min(SMALL_BLOCK, len(model) - start)
            if file.clean_range(start, length):
                assert model[start : start + length] == base.content[start : start + length]
    assert as_bytes(await file.read(0, len(model) + 1)) == bytes(model)
    await file.bring_all()
    assert os.pread(file.fd, len(model) + 1, 0) == bytes(model)
    await file.close()
    assert base.closed


@settings(max_examples=300)
@given(st.binary(max_size=100), steps)
def test_it_is_what_a_bytearray_would_be(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, todo: list[tuple[str, Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("overlay") / "stage"
    asyncio.run(check(path, content, todo))


def test_bringing_is_no_change(tmp_path: Path) -> None:
    """The staged file's mtime says whether it is dirty."""

    async def run() -> None:
        file = open_overlay(tmp_path / "stage", FakeClean(bytes(100)))
        before = file.stat().st_mtime_ns
        await file.bring_all()
        assert file.stat().st_mtime_ns == before
        assert file.clean_range(0, 100)
        await file.close()

    asyncio.run(run())


def test_one_block_is_fetched_once_for_many_writers(tmp_path: Path) -> None:
    class Counting(FakeClean):
        reads = 0

        async def read(self, offset: int, size: int) -> ReadResult:
            self.reads += 1
            return await super().read(offset, size)

    async def run() -> None:
        base = Counting(bytes(range(64)))
        file = open_overlay(tmp_path / "stage", base)
        await asyncio.gather(*(file.write(at, memoryview(b"x")) for at in range(16, 32, 3)))
        assert base.reads == 1
        await file.close()

    asyncio.run(run())


@pytest.mark.parametrize("change", ["write", "truncate", "zero"])
def test_what_changes_while_a_block_is_fetched_stays_changed(tmp_path: Path, change: str) -> None:
    class Slow(FakeClean):
        def __init__(self, content: bytes) -> None:
            super().__init__(content)
            self.asked, self.answer = asyncio.Event(), asyncio.Event()

        async def read(self, offset: int, size: int) -> ReadResult:
            self.asked.set()
            await self.answer.wait()
            return await super().read(offset, size)

    async def run() -> None:
        base = Slow(b"o" * 64)
        file = open_overlay(tmp_path / "stage", base)
        bringing = asyncio.create_task(file.bring_range(16, 16))
        await base.asked.wait()
        if change == "write":
            await file.write(16, memoryview(b"n" * 16))
        elif change == "zero":
            await file.zero(16, 32)
        else:
            await file.truncate(0)
            await file.truncate(64)
        base.answer.set()
        await bringing
        expected = b"n" * 16 if change == "write" else bytes(16)
        assert as_bytes(await file.read(16, 16)) == expected
        await file.close()

    asyncio.run(run())


def test_a_hole_that_is_made_while_a_block_is_fetched_is_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread makes it between the looks at the times and their setting back."""
    begin, made, real, pwrite = threading.Event(), threading.Event(), fallocate, os.pwrite

    def make(fd: int, mode: int, offset: int, length: int) -> None:
        assert begin.wait(20)
        real(fd, mode, offset, length)
        made.set()

    def write(fd: int, data: bytes, offset: int) -> int:
        begin.set()
        assert made.wait(20)
        return pwrite(fd, data, offset)

    async def run() -> None:
        file = open_overlay(tmp_path / "stage", FakeClean(b"o" * 64))
        os.utime(file.fd, ns=(0, 0))
        monkeypatch.setattr(overlay, "fallocate", make)
        monkeypatch.setattr(os, "pwrite", write)
        await asyncio.gather(file.zero(16, 32), file.bring_range(48, 16))
        assert file.stat().st_mtime_ns != 0
        assert as_bytes(await file.read(48, 16)) == b"o" * 16
        assert not file.clean_range(16, 16)
        await file.close()

    asyncio.run(run())


def test_a_hole_of_any_size_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither time of the event loop, which looks at no block of it, nor room."""

    def too_large(*_args: object) -> None:  # how large that is depends on the file system
        raise OSError(errno.EFBIG, "too large")

    async def run() -> None:
        base = FakeClean(b"o" * 100)
        path = tmp_path / "stage"
        file = open_overlay(path, base)
        size = 1 << 40
        await file.truncate(size)
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", too_large)
            with pytest.raises(FsError) as caught:
                await file.truncate(2 * size)
        assert caught.value.errno == errno.EFBIG
        assert file.size == size
        file.rebase(base, unchanged=False)  # type: ignore[arg-type]
        await file.bring_all()
        assert as_bytes(await file.read(90, 20)) == b"o" * 10 + bytes(10)
        assert not file.clean_range(0, 200)
        await file.truncate(50)
        await file.truncate(size)
        assert as_bytes(await file.read(40, 20)) == b"o" * 10 + bytes(10)
        assert path.with_name("stage.blocks").stat().st_size < 4096
        await file.close()

    asyncio.run(run())


def test_zeros_take_no_room(tmp_path: Path) -> None:
    async def run() -> None:
        file = open_overlay(tmp_path / "stage", FakeClean(b""))
        await file.write(0, memoryview(b"x" * (1 << 20)))
        await file.zero(100, (1 << 20) - 100)
        assert file.stat().st_blocks * 512 <= 16 << 10
        assert as_bytes(await file.read(90, 20)) == b"x" * 10 + bytes(10)
        await file.close()

    asyncio.run(run())


def test_zeros_that_cannot_be_made_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise CacheFull("full")

    async def run() -> None:
        file = open_overlay(tmp_path / "stage", FakeClean(b"o" * 100))
        with monkeypatch.context() as patch:
            patch.setattr(overlay, "fallocate", full)
            with pytest.raises(CacheFull):
                await file.zero(10, 90)
        assert as_bytes(await file.read(0, 100)) == b"o" * 100
        await file.zero(10, 90)
        assert as_bytes(await file.read(0, 100)) == b"o" * 10 + bytes(80) + b"o" * 10
        await file.close()

    asyncio.run(run())


def test_a_worker_that_died_within_a_truncation_leaves_none_of_what_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    def die(*_args: object) -> None:
        raise Died

    async def run() -> None:
        base = FakeClean(b"o" * 100)
        file = open_overlay(tmp_path / "stage", base)
        with monkeypatch.context() as patch:
            patch.setattr(OverlayFile, "_set_limit", die)
            with pytest.raises(Died):
                await file.truncate(20)
        await file.close()
        file = open_overlay(tmp_path / "stage", base)
        await file.truncate(100)
        assert as_bytes(await file.read(0, 100)) == b"o" * 20 + bytes(80)
        await file.close()

    asyncio.run(run())


def test_a_map_of_another_version_bounds_what_is_read_of_the_object(tmp_path: Path) -> None:
    """As one does that an earlier release wrote, or a worker that died before it knew more."""

    async def run() -> None:
        file = open_overlay(tmp_path / "stage", FakeClean(b"o" * 100))
        await file.truncate(32)
        await file.close()
        base = FakeClean(b"o" * 40)
        base.source = base.source._replace(etag="another")
        file = open_overlay(tmp_path / "stage", base)
        assert base.size == 32
        file.rebase(base, unchanged=False)  # type: ignore[arg-type]
        await file.close()
        base.source = base.source._replace(size=1)
        await open_overlay(tmp_path / "stage", base).close()
        assert base.size == 32

    asyncio.run(run())


def test_a_map_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped unread it would end the worker, and the one that comes after it."""

    async def run() -> None:
        await open_overlay(tmp_path / "stage", FakeClean(b"x")).close()

    def unreadable(*_args: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    asyncio.run(run())
    monkeypatch.setattr(os, "pread", unreadable)
    with pytest.raises(FsError) as caught:
        open_overlay(tmp_path / "stage", FakeClean(b"x"))
    assert caught.value.errno == errno.EIO


def test_a_foreign_map_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stage.blocks").write_bytes(b"something else".ljust(8192, b"\0"))
    with pytest.raises(CacheCorrupt):
        open_overlay(tmp_path / "stage", FakeClean(b"x"))


def test_what_cannot_be_made_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    fd = os.open(tmp_path / "stage", os.O_RDWR | os.O_CREAT, 0o600)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(CacheFull):
        OverlayFile("stage", str(tmp_path / "stage"), fd, FakeClean(b"x"))  # type: ignore[arg-type]
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_a_cut_that_the_end_of_the_loop_prevents_holds_up_no_sync(tmp_path: Path) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        file = open_overlay(tmp_path / "stage", FakeClean(b"o" * 100))
        with file._checkpoint:  # a sync that is under way
            cut = asyncio.ensure_future(file.truncate(0))
            await asyncio.sleep(0.05)
            ended = asyncio.all_tasks() - {asyncio.current_task()}
            for task in ended:
                task.cancel()
            await asyncio.wait(ended)
        await loop.shutdown_default_executor()
        assert cut.cancelled() and not file._checkpoint.locked()
        await file.close()

    asyncio.run(run())
