"""A local file that cannot be read is no fault of the connection that it was to be sent over."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import SourceUnreadable
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3 import channel as channels
from csi_slayer.store.s3.answer import AnswerReader
from csi_slayer.store.s3.bodies import FileBody
from csi_slayer.store.s3.channel import Channel
from csi_slayer.store.s3.jobs import Upload
from csi_slayer.store.s3.target import Target
from csi_slayer.store.s3.transfers import Lane

FILE = b"x" * 100


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(FILE)
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def channel(ours: socket.socket, *, tls: bool) -> Channel:
    context = ssl.create_default_context() if tls else None
    made = Channel(Target("host", 1, 5.0, 5.0, tls=context))
    made._socket = ours
    return made


def broken(*_values: object) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("tls", [False, True])
def test_a_disk_that_cannot_be_read_is_told_as_such(
    ends: tuple[socket.socket, socket.socket],
    fd: int,
    monkeypatch: pytest.MonkeyPatch,
    tls: bool,
) -> None:
    sender = channel(ends[0], tls=tls)
    monkeypatch.setattr(os, "sendfile", broken)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(SourceUnreadable, match="cannot be read: Input/output error"):
        sender.send_file(fd, 0, len(FILE), AnswerReader(0))


def test_it_is_also_if_it_can_be_read_again(
    ends: tuple[socket.socket, socket.socket], fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", broken)
    with pytest.raises(SourceUnreadable):
        channel(ends[0], tls=False).send_file(fd, 0, len(FILE), AnswerReader(0))


@pytest.mark.parametrize("tls", [False, True])
def test_a_directory_instead_of_a_file(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path, tls: bool
) -> None:
    """Really, for once: nothing is made up here."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SourceUnreadable):
            channel(ends[0], tls=tls).send_file(directory, 0, 1, AnswerReader(0))
    finally:
        os.close(directory)


@pytest.mark.parametrize("tls", [False, True])
def test_a_cut_connection_is_one_still(
    ends: tuple[socket.socket, socket.socket], fd: int, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    ours, theirs = ends
    sender = channel(ours, tls=tls)
    assert sender.send_file(fd, 0, len(FILE), AnswerReader(0))
    assert theirs.recv(1000) == FILE
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(Transient):
        sender.send_file(fd, 0, len(FILE), AnswerReader(0))


def test_a_file_that_became_shorter(ends: tuple[socket.socket, socket.socket], fd: int) -> None:
    with pytest.raises(SourceUnreadable, match="shorter"):
        channel(ends[0], tls=False).send_file(fd, 0, len(FILE) + 1, AnswerReader(0))


def test_a_small_body_that_cannot_be_read(tmp_path: Path) -> None:
    class Engine:
        async def prepare(self, work: Callable[[], bytes]) -> bytes:
            return await asyncio.to_thread(work)

    engine: Any = Engine()
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SourceUnreadable):
            asyncio.run(FileBody(directory, 0, 1).send(engine, "PutObject", "key", (), ()))
    finally:
        os.close(directory)


@pytest.mark.parametrize("answer", [200, 412])
def test_a_server_that_asks_for_a_body_late_gets_it(
    ends: tuple[socket.socket, socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: int,
) -> None:
    """It says 100 when the body is on its way already, because it took long to say anything."""
    monkeypatch.setattr(channels, "_LONGEST_EXPECT", 0.01)
    ours, theirs = ends
    size, head = 8 << 20, b"PUT / HTTP/1.1\r\n\r\n"
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, size)
    received = 0

    def serve() -> None:
        nonlocal received
        assert theirs.recv(len(head), socket.MSG_WAITALL) == head
        received += len(theirs.recv(1000))
        theirs.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while received < (size if answer == 200 else size // 4):
            received += len(theirs.recv(1 << 16))
        theirs.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % answer)
        while theirs.recv(1 << 16):  # whoever sends must not wait for room
            pass

    ours.settimeout(None)
    lane = Lane(Target("host", 1, 5.0, 5.0))
    lane.channel = channel(ours, tls=False)
    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with path.open("rb") as file:
        got = Upload(file.fileno(), 0, size, ask_first=True).run(lane, head)
    lane.channel.close()
    server.join(10)
    assert (got.status, got.body) == (answer, b"ok")
    assert answer == 412 or received == size
