"""The engine on libfuse, as far as it needs no kernel."""

from __future__ import annotations

import asyncio
import errno
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from csi_slayer.errors import ConfigError, FsError, ObjectNotFound, StoreUnavailable
from csi_slayer.fuse import pyfuse3_engine
from csi_slayer.fuse.init import Capabilities
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.fuse.session import SessionOptions
from csi_slayer.fuse.stats import Stats
from csi_slayer.vfs.types import Attr, Entry, Opened, OpenFlags
from tests.support.memfs import Behaviour, MemFs

ATTR = Attr(7, 0o100640, 2, 12, 34, 0, 5000, 10, -1_500_000_000, 10**18 + 5, 3)


def test_without_pyfuse3_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "csi_slayer.fuse.pyfuse3_engine.session", None)
    with pytest.raises(ConfigError, match=r"pip install 'csi-slayer\[pyfuse3\]'"):
        _mount(tmp_path, SessionOptions())


def test_capabilities_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fuse\.disable does not work with fuse\.engine"):
        _mount(tmp_path, SessionOptions(Capabilities.without(["splice"])))


def _mount(directory: Path, options: SessionOptions) -> None:
    async def mount() -> None:
        fs = MemFs(directory, Behaviour())
        await pyfuse3_engine.mount(str(directory), "memfs", fs, options)

    asyncio.run(mount())


@pytest.mark.parametrize(
    ("error", "answer", "logged"),
    [
        (FsError(errno.ENOTEMPTY), errno.ENOTEMPTY, []),
        (FsError(errno.ENOSYS), errno.EOPNOTSUPP, []),
        (ObjectNotFound("key"), errno.ENOENT, []),
        (StoreUnavailable("down"), errno.EIO, ["fuse_request_failed"]),
        (ValueError("ours"), errno.EIO, ["fuse_handler_failed"]),
        (asyncio.CancelledError(), errno.EINTR, []),
    ],
)
def test_every_failure_is_an_answer(error: BaseException, answer: int, logged: list[str]) -> None:
    pyfuse3 = pytest.importorskip("pyfuse3")
    from csi_slayer.fuse.pyfuse3_engine.requests import Requests, served

    class Failing(Requests):
        @served(Opcode.RMDIR)
        async def rmdir(self) -> None:
            raise error

    requests = Failing(Stats())
    with capture_logs() as lines, pytest.raises(pyfuse3.FUSEError) as caught:
        asyncio.run(requests.rmdir())
    assert caught.value.errno == answer
    assert [line["event"] for line in lines] == logged
    assert requests.stats.snapshot()["rmdir"].errors == 1
    assert not requests.running


def ended_with(*results: BaseException | None) -> list[object]:
    """What a nursery logs whose readers end so, the first of which has started the others."""
    from csi_slayer.fuse.pyfuse3_engine.nursery import Nursery

    async def reader(nursery: Nursery, index: int) -> None:
        if index + 1 < len(results):
            nursery.start_soon(reader, nursery, index + 1, name="next")
        result = results[index]
        if result is not None:
            raise result

    async def main() -> None:
        async with Nursery() as nursery:
            nursery.start_soon(reader, nursery, 0, name="first")

    with capture_logs() as lines:
        asyncio.run(main())
    return [line["event"] for line in lines]


@pytest.mark.parametrize("gone", [errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN])
def test_a_reader_that_meets_the_connections_end_has_not_failed(gone: int) -> None:
    pytest.importorskip("pyfuse3")
    assert ended_with(OSError(gone, "gone"), None, OSError(gone, "gone")) == []
    with pytest.raises(OSError, match="no memory"):
        ended_with(None, OSError(errno.ENOMEM, "no memory"), OSError(gone, "gone"), None)


def test_a_reader_that_finds_nothing_to_read_begins_anew() -> None:
    pytest.importorskip("pyfuse3")
    from csi_slayer.fuse.pyfuse3_engine.nursery import Nursery

    begun = []

    async def reader(name: str, others: asyncio.Event) -> None:
        begun.append(name)
        if begun.count(name) < 3:
            raise BlockingIOError(errno.EAGAIN, "nothing to read")
        if name == "second":
            others.set()
        await others.wait()

    async def main() -> None:
        others = asyncio.Event()
        async with Nursery() as nursery:
            nursery.start_soon(reader, "first", others, name="first")
            nursery.start_soon(reader, "second", others, name="second")

    with capture_logs() as lines:
        asyncio.run(main())
    assert sorted(begun) == ["first"] * 3 + ["second"] * 3
    assert not lines


def test_a_reader_that_fails_is_told_of_while_the_first_waits() -> None:
    pytest.importorskip("pyfuse3")
    from csi_slayer.fuse.pyfuse3_engine.nursery import Nursery

    async def main() -> None:
        free = asyncio.Event()

        async def first() -> None:
            nursery.start_soon(second, name="second")
            await free.wait()

        async def second() -> None:
            await asyncio.sleep(0)
            raise OSError(errno.ENOMEM, "no memory")

        async def ended() -> None:
            async with nursery:
                nursery.start_soon(first, name="first")

        nursery = Nursery()
        task = asyncio.create_task(ended())
        for _ in range(10):
            await asyncio.sleep(0)
        assert [line["event"] for line in lines] == ["fuse_reader_failed"]
        free.set()
        with pytest.raises(OSError, match="no memory"):
            await task

    with capture_logs() as lines:
        asyncio.run(main())


def test_values() -> None:
    pytest.importorskip("pyfuse3")
    from csi_slayer.fuse.pyfuse3_engine import values

    found = values.entry(Entry(ATTR, 5.0, 7.5))
    assert (found.st_ino, found.st_mode, found.st_nlink) == (7, 0o100640, 2)
    assert (found.st_uid, found.st_gid, found.st_size, found.st_blocks) == (12, 34, 5000, 10)
    assert (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns) == (
        -1_500_000_000, 10**18 + 5, 3,
    )  # fmt: skip
    assert (found.entry_timeout, found.attr_timeout) == (5.0, 7.5)
    negative = values.entry(Entry(None, 3.0, 0.0))
    assert (negative.st_ino, negative.entry_timeout) == (0, 3.0)
    opened = values.file_info(9, Opened(4, OpenFlags.DIRECT_IO | OpenFlags.NOFLUSH))
    assert (opened.fh, opened.direct_io, opened.keep_cache) == (9, True, False)
    assert values.file_info(9, Opened(4, OpenFlags.KEEP_CACHE)).keep_cache
