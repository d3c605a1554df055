"""Calls that wait for programs, in threads of their own."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from csi_slayer.content import patient as module
from csi_slayer.content.patient import THREADS, Patient, read_small


@pytest.fixture
def fd(tmp_path: Path) -> int:
    return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_they_leave_the_threads_of_others_alone(fd: int) -> None:
    ended = threading.Event()

    async def test() -> None:
        patient = Patient()
        waiting = [
            asyncio.create_task(patient.run(lambda _own: ended.wait(30), fd))
            for _ in range(2 * THREADS)
        ]
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(os.getpid) == os.getpid()
        ended.set()
        assert await asyncio.gather(*waiting) == [True] * len(waiting)

    asyncio.run(test())
    os.close(fd)


def test_the_file_is_the_same_whatever_becomes_of_who_waits(fd: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    begun, go_on = threading.Event(), threading.Event()
    sizes = []

    def call(own: int) -> None:
        begun.set()
        go_on.wait(30)
        sizes.append(os.fstat(own).st_size)

    async def test() -> None:
        task = asyncio.create_task(Patient().run(call, fd))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        os.close(fd)
        other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
        assert other == fd, "the number is another file's"
        go_on.set()
        async with asyncio.timeout(10):
            while not sizes:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        os.close(other)

    asyncio.run(test())
    assert sizes == [4]


def test_no_descriptor_is_left_of_what_never_began(fd: int) -> None:
    ended = threading.Event()

    async def test() -> None:
        patient = Patient()
        busy = [
            asyncio.create_task(patient.run(lambda _own: ended.wait(30), fd))
            for _ in range(THREADS)
        ]
        await asyncio.sleep(0)
        before = descriptors()
        late = asyncio.create_task(patient.run(os.fstat, fd))
        await asyncio.sleep(0)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert descriptors() == before
        ended.set()
        await asyncio.gather(*busy)

    asyncio.run(test())
    os.close(fd)


def test_an_error_is_raised(fd: int) -> None:
    def call(_own: int) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        asyncio.run(Patient().run(call, fd))
    os.close(fd)


def test_one_thread_does_them_while_none_is_held_up(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_UP", 60.0)

    async def test() -> None:
        patient = Patient()
        calls = [patient.run(lambda _own: threading.get_ident(), fd) for _ in range(20)]
        assert len(set(await asyncio.gather(*calls))) == 1

    asyncio.run(test())
    os.close(fd)


def test_a_call_that_is_held_up_holds_up_no_other(fd: int) -> None:
    ended = threading.Event()

    async def test() -> None:
        patient = Patient()
        for _ in range(2):  # also after it was idle
            ended.clear()
            waiting = asyncio.create_task(patient.run(lambda _own: ended.wait(30), fd))
            async with asyncio.timeout(10):
                assert (await patient.run(os.fstat, fd)).st_size == 0
            assert not waiting.done()
            ended.set()
            assert await waiting
            await asyncio.sleep(2 * module.HELD_UP)

    asyncio.run(test())
    os.close(fd)


def test_what_becomes_of_a_call_that_was_left_is_told(fd: int) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def call(_own: int) -> str:
        begun.set()
        go_on.wait(30)
        return "done"

    async def test() -> None:
        left: asyncio.Future[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(Patient().run(call, fd, left.set_result))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        go_on.set()
        async with asyncio.timeout(10):
            assert await (await left) == "done"

    asyncio.run(test())
    os.close(fd)


def test_of_a_call_that_was_over_when_its_waiter_was_cancelled_is_told_too(fd: int) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        left: asyncio.Future[asyncio.Future[int]] = loop.create_future()
        task = asyncio.create_task(Patient().run(os.dup, fd, left.set_result))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251  the call is over, which the loop is told next
        loop.call_soon(task.cancel)
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        async with asyncio.timeout(10):
            os.close(await (await left))

    asyncio.run(test())
    os.close(fd)


def test_a_descriptor_that_cannot_be_closed_is_told(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file on NFS, whose close writes it."""
    close, failing = os.close, list[int]()

    def fail(own: int) -> None:
        close(own)
        if own in failing:
            raise OSError(errno.EDQUOT, "quota")

    async def test() -> None:
        patient = Patient()
        monkeypatch.setattr(os, "close", fail)
        async with asyncio.timeout(10):
            with pytest.raises(OSError, match="quota"):
                await patient.run(failing.append, fd)
            failing.clear()
            assert (await patient.run(os.fstat, fd)).st_size == 0, "the thread lives"

    asyncio.run(test())
    close(fd)


@pytest.mark.parametrize("running", [0, 1])
def test_threads_that_cannot_be_started_are_tried_again(
    fd: int, monkeypatch: pytest.MonkeyPatch, running: int
) -> None:
    ended, refused = threading.Event(), list[threading.Thread]()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "patient" and len(refused) < 3:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    async def test() -> None:
        patient = Patient()
        waiting = [
            asyncio.create_task(patient.run(lambda _own: ended.wait(30), fd))
            for _ in range(running)
        ]
        await asyncio.sleep(0)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        async with asyncio.timeout(10):
            assert (await patient.run(os.fstat, fd)).st_size == 0
        ended.set()
        await asyncio.gather(*waiting)
        assert len(refused) == 3

    asyncio.run(test())
    os.close(fd)


def test_nothing_is_looked_at_while_all_have_begun(fd: int) -> None:
    ended = threading.Event()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        waiting = asyncio.create_task(Patient().run(lambda _own: ended.wait(30), fd))
        await asyncio.sleep(20 * module.HELD_UP)
        assert not loop._scheduled  # type: ignore[attr-defined]
        ended.set()
        await waiting

    asyncio.run(test())
    os.close(fd)


def test_a_file_that_is_being_written_is_read_while_the_loop_goes_on(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on XFS, where a read waits for a write, and that maybe for a page that the loop brings."""
    os.pwrite(fd, b"content", 0)
    read, written = os.pread, threading.Event()

    def refuse(*_args: object) -> int:
        raise BlockingIOError

    def wait(*args: int) -> bytes:
        assert written.wait(5)
        return read(*args)

    async def test() -> None:
        assert await read_small(Patient(), fd, 7) == b"content"
        monkeypatch.setattr(os, "preadv", refuse)
        monkeypatch.setattr(os, "pread", wait)
        asyncio.get_running_loop().call_later(0.01, written.set)
        assert await read_small(Patient(), fd, 9) == b"content"

    asyncio.run(test())
    os.close(fd)
