"""The thread that writes invalidations, with a socket in the kernel's place."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from csi_slayer.fuse.notify import Invalidation, Notifier, resend
from csi_slayer.observability.logging import log_context


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    with ours, device:
        yield ours, device


def head(code: int, body: bytes) -> bytes:
    return struct.pack("<IiQ", 16 + len(body), code, 0) + body


def test_an_inode_loses_attributes_and_all_pages(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    kernel, device = ends
    notifier = Notifier(device.fileno(), expire_only=True)
    notifier.invalidate_inode(42)
    assert kernel.recv(100) == head(2, struct.pack("<Qqq", 42, 0, 0))
    assert notifier.close(10)


def test_an_inode_loses_a_part_of_its_pages(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    kernel, device = ends
    notifier = Notifier(device.fileno(), expire_only=True)
    notifier.invalidate_pages(42, range(4096, 12288))
    assert kernel.recv(100) == head(2, struct.pack("<Qqq", 42, 4096, 8192))
    assert notifier.close(10)


@pytest.mark.parametrize("expire_only", [False, True])
def test_a_name_is_looked_up_again(
    ends: tuple[socket.socket, socket.socket], expire_only: bool
) -> None:
    kernel, device = ends
    notifier = Notifier(device.fileno(), expire_only=expire_only)
    notifier.invalidate_entry(7, b"name")
    assert kernel.recv(100) == head(3, struct.pack("<QII", 7, 4, expire_only) + b"name\0")
    assert notifier.close(10)


def test_a_renewed_inode_is_invalidated_no_more(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, device = ends
    notifier = Notifier(device.fileno(), expire_only=True)
    gone_on, inside = threading.Event(), threading.Event()
    write = notifier._write

    def slow(what: Invalidation) -> None:
        if what.ino == 1:
            inside.set()
            assert gone_on.wait(10)
        write(what)

    monkeypatch.setattr(notifier, "_write", slow)
    notifier.invalidate_inode(1)
    assert inside.wait(10)
    notifier.invalidate_inode(42)
    asyncio.run(notifier.renew(42))
    assert kernel.recv(100) == head(2, struct.pack("<Qqq", 42, -1, 0))

    async def renew_what_is_being_written() -> None:
        renewing = asyncio.ensure_future(notifier.renew(1))
        await asyncio.sleep(0.01)
        assert not renewing.done()
        gone_on.set()
        await renewing

    monkeypatch.setattr(notifier, "invalidate_attributes", lambda ino: write(Invalidation(ino)))
    asyncio.run(renew_what_is_being_written())
    told = [struct.unpack("<Qqq", kernel.recv(100)[16:]) for _ in range(2)]
    assert told == [(1, 0, 0), (1, 0, 0)]
    assert notifier.close(10)
    kernel.setblocking(False)
    with pytest.raises(BlockingIOError):
        kernel.recv(100)


def fill(device: socket.socket) -> int:
    """Make the next write to the device wait, as a lock in the kernel would."""
    device.setblocking(False)
    count = 0
    while True:
        try:
            device.send(bytes(1000))
        except BlockingIOError:
            device.setblocking(True)
            return count
        count += 1


def test_what_waits_already_is_not_queued_twice_and_too_much_is_dropped(
    ends: tuple[socket.socket, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel, device = ends
    count = fill(device)
    notifier = Notifier(device.fileno(), expire_only=True, limit=3)
    queued = [notifier.invalidate_inode(ino) for ino in (1, 2, 2, 3, 3, 2, 4, 5, 6, 7)]
    assert queued.count(False) == notifier.dropped
    assert all(queued[:6])
    # Three wait; the thread may have taken one of them, at any time.
    assert notifier.dropped in (3, 4)
    for _ in range(count):
        kernel.recv(2000)
    assert notifier.close(10)
    kernel.setblocking(False)
    written = []
    while True:
        try:
            written.append(struct.unpack("<Qqq", kernel.recv(100)[16:])[0])
        except BlockingIOError:
            break
    assert written[:3] == [1, 2, 3]
    assert len(written) == 7 - notifier.dropped
    assert written == sorted(set(written) & set(range(1, 8)))
    assert capsys.readouterr().out.count("fuse_invalidations_dropped") == 1


def test_closing_does_not_wait_for_ever(ends: tuple[socket.socket, socket.socket]) -> None:
    kernel, device = ends
    fill(device)
    notifier = Notifier(device.fileno(), expire_only=True)
    with log_context(volume="v"):
        notifier.invalidate_inode(1)
    assert not notifier.close(0.05)
    notifier.invalidate_inode(2)
    with capture_logs([merge_contextvars]) as logs:
        kernel.close()  # the write that hangs fails, and the thread ends
        assert notifier.close(10)
    found = [(entry["event"], entry["volume"]) for entry in logs]
    assert found == [("fuse_invalidation_refused", "v")]


def test_the_thread_holds_nothing_but_the_device(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """A lock that this process lets go is free, whatever the thread waits for."""
    kernel, device = ends
    fill(device)
    with (tmp_path / "lock").open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        notifier = Notifier(device.fileno(), expire_only=True)
        before = set(os.listdir("/proc/self/task"))
        notifier.invalidate_inode(1)
        (task,) = set(os.listdir("/proc/self/task")) - before
        deadline = time.monotonic() + 10
        while os.listdir(f"/proc/self/task/{task}/fd") != [str(device.fileno())]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with (tmp_path / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with capture_logs():
        kernel.close()
        assert notifier.close(10)


def test_a_limit_of_a_billion_descriptors_is_not_counted_up_to(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Python has no close_range(2): ten minutes in which nothing was invalidated."""
    kernel, device = ends
    closed, closerange = [], os.closerange

    def one_by_one(low: int, high: int) -> None:
        closed.append(high - low)
        closerange(low, high)

    monkeypatch.setattr(os, "closerange", one_by_one)
    monkeypatch.setattr(os, "sysconf", lambda _name: 1 << 30)
    notifier = Notifier(device.fileno(), expire_only=True)
    notifier.invalidate_inode(1)
    assert kernel.recv(100)
    assert notifier.close(10)
    assert sum(closed) < 1 << 20


def test_attributes_alone_wait_for_nobody(ends: tuple[socket.socket, socket.socket]) -> None:
    kernel, device = ends
    notifier = Notifier(device.fileno(), expire_only=True)
    notifier.invalidate_attributes(42)
    assert kernel.recv(100) == head(2, struct.pack("<Qqq", 42, -1, 0))
    assert notifier.close(10)


def test_what_has_the_number_of_a_closed_device_is_not_written_to(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    _, device = ends
    number = os.dup(device.fileno())
    notifier = Notifier(number, expire_only=True)
    assert notifier.close(10)
    path = tmp_path / "staged"
    other = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(other, number)
    notifier.invalidate_attributes(42)
    notifier.invalidate_inode(42)
    os.close(other)
    os.close(number)
    assert path.read_bytes() == b""


def test_without_invalidations_there_is_no_thread() -> None:
    assert Notifier(-1, expire_only=True).close(0)


def test_resend(ends: tuple[socket.socket, socket.socket]) -> None:
    kernel, device = ends
    resend(device.fileno())
    assert kernel.recv(100) == head(7, b"")
