"""A local file that cannot be read is no fault of the connection that it was to be sent over."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import SourceUnreadable
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.bodies import FileBody
from csi_slayer.store.s3.channel import Channel
from csi_slayer.store.s3.target import Target

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
        sender.send_file(fd, 0, len(FILE))


def test_it_is_also_if_it_can_be_read_again(
    ends: tuple[socket.socket, socket.socket], fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", broken)
    with pytest.raises(SourceUnreadable):
        channel(ends[0], tls=False).send_file(fd, 0, len(FILE))


@pytest.mark.parametrize("tls", [False, True])
def test_a_directory_instead_of_a_file(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path, tls: bool
) -> None:
    """Really, for once: nothing is made up here."""
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SourceUnreadable):
            channel(ends[0], tls=tls).send_file(directory, 0, 1)
    finally:
        os.close(directory)


@pytest.mark.parametrize("tls", [False, True])
def test_a_cut_connection_is_one_still(
    ends: tuple[socket.socket, socket.socket], fd: int, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    ours, theirs = ends
    sender = channel(ours, tls=tls)
    assert sender.send_file(fd, 0, len(FILE))
    assert theirs.recv(1000) == FILE
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(Transient):
        sender.send_file(fd, 0, len(FILE))


def test_a_file_that_became_shorter(ends: tuple[socket.socket, socket.socket], fd: int) -> None:
    with pytest.raises(SourceUnreadable, match="shorter"):
        channel(ends[0], tls=False).send_file(fd, 0, len(FILE) + 1)


def test_a_small_body_that_cannot_be_read(tmp_path: Path) -> None:
    nothing: Any = None
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(SourceUnreadable):
            asyncio.run(FileBody(directory, 0, 1).send(nothing, "PutObject", "key", (), ()))
    finally:
        os.close(directory)
