"""Requests to handlers to replies, with a socket in the kernel's place."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import FsError, StoreUnavailable
from csi_slayer.fuse import protocol as p
from csi_slayer.fuse.channel import POOL
from csi_slayer.fuse.dispatch import COPIED
from csi_slayer.fuse.protocol import Opcode
from csi_slayer.vfs.types import Attr, DirItem, Entry, FileRange, Opened, Request, SetAttr
from tests.unit.fuse.fakekernel import FakeKernel, until

ATTR = Attr(1, 0o100644, 1, 0, 0, 0, 10, 1, 0, 0, 0)


class Ops:
    """Answers what a test tells it to."""

    zero_upcall = read_only = False

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.forgotten: list[tuple[int, int]] = []
        self.unseen: list[int] = []
        self.written: list[bytes] = []
        self.changes: list[SetAttr] = []
        self.gate = asyncio.Event()
        self.error: BaseException | None = None
        self.attr = ATTR
        self.data: Any = b""
        self.names: list[DirItem] = []

    def attach(self, kernel: object) -> None: ...

    def forget(self, ino: int, count: int) -> None:
        self.forgotten.append((ino, count))
        if self.error is not None:
            raise self.error

    def unsent(self, ino: int) -> None:
        self.unseen.append(ino)

    async def getattr(self, req: Request, ino: int, fh: int | None) -> tuple[Attr, float]:
        self.requests.append(req)
        if self.error is not None:
            raise self.error
        return self.attr, 1.0

    async def setattr(self, req: Request, ino: int, changes: SetAttr) -> tuple[Attr, float]:
        self.changes.append(changes)
        return self.attr, 1.0

    async def mkdir(self, req: Request, parent: int, name: bytes, mode: int) -> Entry:
        await self.gate.wait()
        return Entry(self.attr, 1, 1)

    async def read(self, req: Request, ino: int, fh: int, offset: int, size: int) -> Any:
        self.requests.append(req)
        if fh == 9:
            await self.gate.wait()
        return self.data

    async def write(
        self, req: Request, ino: int, fh: int, offset: int, data: memoryview, append: bool = False
    ) -> int:
        if fh == 9:
            await self.gate.wait()
        self.written.append(bytes(data))
        return len(data)

    async def open(self, req: Request, ino: int, flags: int) -> Opened:
        return Opened(1)

    async def fallocate(
        self, req: Request, ino: int, fh: int, mode: int, offset: int, length: int
    ) -> None: ...

    async def copy_file_range(self, req: Request, ino: int, *where: int) -> int:
        return 0

    async def readdir(
        self, req: Request, ino: int, fh: int, cookie: int, limit: int, plus: bool
    ) -> list[DirItem]:
        return self.names


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test

    asyncio.run(bounded())


def serve(**options: Any) -> tuple[Ops, FakeKernel]:
    ops = Ops()
    kernel = FakeKernel(ops, **options)
    kernel.start()
    return ops, kernel


def getattr_body(flags: int = 0, fh: int = 0) -> bytes:
    return p.GETATTR_IN.pack(flags, 0, fh)


def read_body(fh: int, offset: int = 0, size: int = 4096, flags: int = 0) -> bytes:
    return p.READ_IN.pack(fh, offset, size, flags, 0, 0, 0)


def write_body(fh: int, data: bytes, flags: int = 0) -> bytes:
    return p.WRITE_IN.pack(fh, 0, len(data), flags, 0, 0, 0) + data


def test_a_request_is_answered_and_counted() -> None:
    async def test() -> None:
        class Histogram:
            seen: list[tuple[str, float]] = []  # noqa: RUF012
            errors: list[tuple[str, int]] = []  # noqa: RUF012

            def observe(self, op: str, seconds: float) -> None:
                self.seen.append((op, seconds))

            def failed(self, op: str, errno: int) -> None:
                self.errors.append((op, errno))

        ops, kernel = serve(observer=Histogram())
        error, data = await kernel.ask(Opcode.GETATTR, getattr_body(), ino=7)
        assert error == 0
        assert len(data) == 104
        assert ops.requests[0] == Request(2, 1, 2, os.getpid(), False)
        stats = kernel.stats.snapshot()
        assert stats.keys() == {"getattr"}
        assert (stats["getattr"].count, stats["getattr"].errors) == (1, 0)
        assert Histogram.seen[0][0] == "getattr"
        assert Histogram.errors == []
        error, _ = await kernel.ask(Opcode.IOCTL, b"", ino=7)
        assert error == errno.ENOSYS
        assert Histogram.errors == [("ioctl", errno.ENOSYS)]
        kernel.close()

    run(test())


def test_a_resent_request_is_marked_and_answered_with_its_bit() -> None:
    async def test() -> None:
        ops, kernel = serve()
        kernel.send(Opcode.GETATTR, getattr_body(), unique=p.UNIQUE_RESEND | 34)
        error, unique, _ = await kernel.reply()
        assert (error, unique) == (0, p.UNIQUE_RESEND | 34)
        assert ops.requests[0].unique == 34
        assert ops.requests[0].resent
        kernel.close()

    run(test())


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (FsError(errno.ENOENT), errno.ENOENT),
        (StoreUnavailable("away"), errno.EIO),
        (FsError(errno.ENOSYS), errno.EOPNOTSUPP),
        (FsError(4711), errno.EIO),
        (FsError(0), errno.EIO),
    ],
)
def test_errors_of_ours_are_their_errno(error: Exception, answer: int) -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.error = error
        assert await kernel.ask(Opcode.GETATTR, getattr_body()) == (answer, b"")
        assert kernel.stats.snapshot()["getattr"].errors == 1
        kernel.close()

    run(test())


@pytest.mark.allow_log("Traceback")
def test_other_errors_are_eio_and_logged_without_contents(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.error = ZeroDivisionError("oops")
        assert await kernel.ask(Opcode.GETATTR, getattr_body()) == (errno.EIO, b"")
        kernel.close()

    run(test())
    logged = capsys.readouterr().out
    assert logged.count("fuse_handler_failed") == 1
    assert "ZeroDivisionError: oops" in logged
    assert "op=" in logged
    assert "locals" not in logged


@pytest.mark.allow_log("Traceback")
def test_a_malformed_request_is_eio() -> None:
    async def test() -> None:
        _, kernel = serve()
        assert await kernel.ask(Opcode.GETATTR, b"short") == (errno.EIO, b"")
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        kernel.close()

    run(test())


@pytest.mark.parametrize(
    "opcode",
    [Opcode.SYNCFS, Opcode.STATX, Opcode.TMPFILE, Opcode.IOCTL, Opcode.POLL, Opcode.BMAP,
     Opcode.GETLK, 54, 4096],
)  # fmt: skip
def test_what_we_do_not_do_is_enosys(opcode: int) -> None:
    async def test() -> None:
        _, kernel = serve()
        assert await kernel.ask(opcode, bytes(64)) == (errno.ENOSYS, b"")
        kernel.close()

    run(test())


@pytest.mark.parametrize(
    ("capability", "opcode"),
    [
        ("xattr", Opcode.GETXATTR), ("xattr", Opcode.SETXATTR), ("fallocate", Opcode.FALLOCATE),
        ("lseek", Opcode.LSEEK), ("copy_file_range", Opcode.COPY_FILE_RANGE_64),
        ("readdirplus", Opcode.READDIRPLUS),
    ],
)  # fmt: skip
def test_what_is_switched_off_is_enosys(capability: str, opcode: int) -> None:
    async def test() -> None:
        _, kernel = serve(off=(capability,))
        assert await kernel.ask(opcode, bytes(64)) == (errno.ENOSYS, b"")
        kernel.close()

    run(test())


def test_without_opens_they_are_enosys_and_so_is_flush() -> None:
    async def test() -> None:
        _, kernel = serve(zero_upcall=True)
        for opcode in (Opcode.OPEN, Opcode.OPENDIR, Opcode.FLUSH):
            assert await kernel.ask(opcode, bytes(64)) == (errno.ENOSYS, b"")
        kernel.close()

    run(test())


def test_forgets_get_no_reply() -> None:
    async def test() -> None:
        ops, kernel = serve()
        kernel.send(Opcode.FORGET, p.FORGET_IN.pack(3), ino=7)
        pairs = p.FORGET_ONE.pack(8, 1) + p.FORGET_ONE.pack(9, 2)
        kernel.send(Opcode.BATCH_FORGET, p.BATCH_FORGET_IN.pack(2, 0) + pairs, ino=0)
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        assert ops.forgotten == [(7, 3), (8, 1), (9, 2)]
        kernel.close()

    run(test())


@pytest.mark.allow_log("Traceback")
def test_a_failing_forget_does_not_end_the_session() -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.error = KeyError("x")
        kernel.send(Opcode.FORGET, p.FORGET_IN.pack(3), ino=7)
        await until(lambda: ops.forgotten)
        ops.error = None
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        kernel.close()

    run(test())


def test_a_read_never_returns_more_than_was_asked_for() -> None:
    async def test() -> None:
        ops, kernel = serve()
        for data in (b"0123456789", memoryview(b"0123456789")):
            ops.data = data
            assert await kernel.ask(Opcode.READ, read_body(1, size=4)) == (0, b"0123")
        kernel.close()

    run(test())


def test_a_range_of_a_file_ends_with_the_file(tmp_path: Path) -> None:
    async def test() -> None:
        path = tmp_path / "data"
        path.write_bytes(bytes(range(256)))
        ops, kernel = serve()
        with path.open("rb") as file:
            for offset, size, asked in ((0, 100, 100), (200, 100, 100), (300, 10, 10), (0, 50, 9)):
                ops.data = FileRange(file.fileno(), offset, size)
                want = bytes(range(256))[offset : offset + min(size, asked)]
                assert await kernel.ask(Opcode.READ, read_body(1, size=asked)) == (0, want)
        kernel.close()

    run(test())


def test_requests_go_on_while_handlers_wait() -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.data = b"late"
        waiting = {kernel.send(Opcode.READ, read_body(9)) for _ in range(64)}
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        assert kernel.dispatcher.in_flight == 64
        ops.gate.set()
        replies = [await kernel.reply() for _ in range(64)]
        assert {unique for _, unique, _ in replies} == waiting
        assert {(error, data) for error, _, data in replies} == {(0, b"late")}
        assert kernel.dispatcher.in_flight == 0
        kernel.close()

    run(test())


@pytest.mark.parametrize("size", [10, COPIED + 1000])
def test_a_write_that_waits_keeps_its_data(size: int) -> None:
    async def test() -> None:
        ops, kernel = serve()
        wanted = [bytes([n]) * size for n in range(8)]
        for data in wanted:
            kernel.send(Opcode.WRITE, write_body(9, data))
        await until(lambda: kernel.dispatcher.in_flight == 8)
        assert await kernel.ask(Opcode.WRITE, write_body(1, b"z" * size))
        ops.gate.set()
        for _ in wanted:
            error, _, data = await kernel.reply()
            assert (error, struct.unpack("<II", data)) == (0, (size, 0))
        assert sorted(ops.written[1:]) == wanted
        kernel.close()

    run(test())


def test_reading_stops_while_all_buffers_are_taken_and_goes_on_afterwards() -> None:
    async def test() -> None:
        ops, kernel = serve()
        data = b"x" * (COPIED + 1)
        for _ in range(POOL):
            kernel.send(Opcode.WRITE, write_body(9, data))
        await until(lambda: kernel.dispatcher.in_flight == POOL)
        kernel.send(Opcode.GETATTR, getattr_body())
        for _ in range(20):
            await asyncio.sleep(0)
        assert not ops.requests
        ops.gate.set()
        answers = [len((await kernel.reply())[2]) for _ in range(POOL + 1)]
        assert sorted(answers) == [8] * POOL + [104]
        kernel.close()

    run(test())


def test_an_interrupted_read_is_eintr() -> None:
    async def test() -> None:
        _, kernel = serve()
        target = kernel.send(Opcode.READ, read_body(9, flags=p.READ_LOCKOWNER))
        await until(lambda: kernel.dispatcher.in_flight)
        kernel.send(Opcode.INTERRUPT, p.INTERRUPT_IN.pack(target), unique=target | 1)
        assert await kernel.reply() == (errno.EINTR, target, b"")
        kernel.close()

    run(test())


MKDIR = (Opcode.MKDIR, p.MKDIR_IN.pack(0o755, 0) + b"new\0")
FILL_PAGES = (Opcode.READ, read_body(9))


@pytest.mark.parametrize(("opcode", "body"), [MKDIR, FILL_PAGES], ids=["mkdir", "page fault"])
def test_other_requests_are_not_interrupted_while_their_caller_lives(
    opcode: int, body: bytes
) -> None:
    async def test() -> None:
        ops, kernel = serve()
        target = kernel.send(opcode, body)
        await until(lambda: kernel.dispatcher.in_flight)
        kernel.send(Opcode.INTERRUPT, p.INTERRUPT_IN.pack(target), unique=target | 1)
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        assert kernel.dispatcher.in_flight == 1
        ops.gate.set()
        error, unique, _ = await kernel.reply()
        assert (error, unique) == (0, target)
        kernel.close()

    run(test())


def test_an_interrupt_of_an_unknown_request_is_asked_for_once_more() -> None:
    async def test() -> None:
        _, kernel = serve()
        for _ in range(2):
            kernel.send(Opcode.INTERRUPT, p.INTERRUPT_IN.pack(1234), unique=1235)
        assert await kernel.reply() == (errno.EAGAIN, 1235, b"")
        assert (await kernel.ask(Opcode.GETATTR, getattr_body()))[0] == 0
        assert kernel.silent()
        kernel.close()

    run(test())


def test_set_id_bits_go_before_a_write_of_somebody_without_the_right() -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.attr = ATTR._replace(mode=0o106755)
        await kernel.ask(Opcode.WRITE, write_body(1, b"x", p.WRITE_KILL_SUIDGID))
        assert ops.changes == [SetAttr(mode=0o100755)]
        assert len(kernel.stale) == 1, "the kernel knows the mode"
        ops.attr = ATTR._replace(mode=0o102745)
        await kernel.ask(Opcode.WRITE, write_body(1, b"x", p.WRITE_KILL_SUIDGID))
        await kernel.ask(Opcode.WRITE, write_body(1, b"x"))
        assert len(ops.changes) == 1, "set-group-id without group execution stays"
        assert len(kernel.stale) == 1
        kernel.send(
            Opcode.WRITE, write_body(1, b"x", p.WRITE_KILL_SUIDGID), unique=p.UNIQUE_RESEND | 98
        )
        assert (await kernel.reply())[0] == 0
        assert len(kernel.stale) == 2, "who had it before perhaps died before it could tell"
        kernel.close()

    run(test())


def test_set_id_bits_go_with_a_truncation() -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.attr = ATTR._replace(mode=0o104755)
        valid = p.FATTR_SIZE | p.FATTR_KILL_SUIDGID
        body = p.SETATTR_IN.pack(valid, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        await kernel.ask(Opcode.SETATTR, body)
        assert ops.changes == [SetAttr(mode=0o100755, size=5)]
        kernel.close()

    run(test())


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.OPEN, p.OPEN_IN.pack(os.O_WRONLY | os.O_TRUNC, 0)),
        (Opcode.FALLOCATE, p.FALLOCATE_IN.pack(1, 0, 5, 0, 0)),
        (Opcode.COPY_FILE_RANGE, p.COPY_FILE_RANGE_IN.pack(1, 0, 1, 2, 0, 5, 0)),
        (Opcode.COPY_FILE_RANGE_64, p.COPY_FILE_RANGE_IN.pack(1, 0, 1, 2, 0, 5, 0)),
    ],
    ids=["open", "fallocate", "copy_file_range", "copy_file_range_64"],
)
def test_set_id_bits_go_at_changes_of_which_the_kernel_does_not_say_it(
    opcode: Opcode, body: bytes
) -> None:
    async def test() -> None:
        ops, kernel = serve()
        ops.attr = ATTR._replace(mode=0o104755)
        kernel.send(opcode, body, uid=0)
        assert (await kernel.reply())[0] == 0
        assert ops.changes == [], "root may keep them"
        kernel.send(opcode, body, uid=1000)
        assert (await kernel.reply())[0] == 0
        assert ops.changes == [SetAttr(mode=0o100755)]
        assert len(kernel.stale) == 1
        kernel.close()

    run(test())


def test_entries_that_did_not_fit_are_not_taken_for_forgotten() -> None:
    """The kernel may have those inodes, with pages that are to be dropped."""

    async def test() -> None:
        ops, kernel = serve()
        ops.names = [
            DirItem(b"n" * 100, n, 0o100644, n, Entry(ATTR._replace(ino=n), 1, 1))
            for n in range(1, 6)
        ]
        _, data = await kernel.ask(Opcode.READDIRPLUS, read_body(0, size=600))
        assert len(data) == 2 * 256
        assert ops.unseen == [3, 4, 5]
        assert not ops.forgotten
        kernel.close()

    run(test())


def test_draining_waits_then_cancels() -> None:
    async def test() -> None:
        ops, kernel = serve()
        unique = kernel.send(Opcode.READ, read_body(9))
        await until(lambda: kernel.dispatcher.in_flight)
        assert await kernel.dispatcher.drain(0.01, leave_unanswered=False) == 1
        assert await kernel.reply() == (errno.EINTR, unique, b"")
        kernel.send(Opcode.READ, read_body(9))
        await until(lambda: kernel.dispatcher.in_flight)
        asyncio.get_running_loop().call_soon(ops.gate.set)
        assert await kernel.dispatcher.drain(10, leave_unanswered=False) == 0
        assert (await kernel.reply())[0] == 0
        kernel.close()

    run(test())


def test_draining_for_a_successor_leaves_requests_unanswered() -> None:
    async def test() -> None:
        _, kernel = serve()
        kernel.send(Opcode.READ, read_body(9))
        await until(lambda: kernel.dispatcher.in_flight)
        assert await kernel.dispatcher.drain(0, leave_unanswered=True) == 1
        assert kernel.dispatcher.in_flight == 0
        assert kernel.silent()
        kernel.close()

    run(test())


def test_the_end_of_the_connection_is_told_once() -> None:
    async def test() -> None:
        _, kernel = serve()
        kernel.end.close()
        await until(lambda: kernel.closed)
        kernel.close()

    run(test())
