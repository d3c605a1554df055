"""Clients of the control socket that mean harm, or are broken: the worker is unharmed."""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cli.control import NoWorker
from tests.support.mounts import TestMount, wait_for

pytestmark = pytest.mark.integration

CUT_OFF = 20.0
"""Seconds after which a client that says nothing must be cut off, with a busy machine in mind."""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestMount]:
    """One volume for all: what a client did must not be noticed by the next."""
    base = tmp_path_factory.mktemp("control")
    (base / "objects").mkdir()
    mount = TestMount(f"file://{base}/objects", base).mount()
    yield mount
    log = mount.log
    mount.close()
    assert "Traceback" not in log
    assert "Unhandled" not in log


@pytest.fixture
def clients(mount: TestMount) -> Iterator[list[socket.socket]]:
    """Connections that are closed after the test."""
    made: list[socket.socket] = []
    yield made
    for client in made:
        client.close()
    (mount.root / "alive").write_bytes(b"content")
    status = _status(mount)
    assert status["mountpoint"] == str(mount.root)
    assert status["restarts"] == 0


def _status(mount: TestMount) -> dict[str, Any]:
    return mount.ask_status()


def _answers(mount: TestMount) -> bool:
    try:
        return bool(_status(mount))
    except NoWorker:
        return False


def _connect(mount: TestMount, clients: list[socket.socket]) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(CUT_OFF)
    client.connect(mount.entry()["control"])
    clients.append(client)
    return client


def _read_all(client: socket.socket) -> bytes:
    received = b""
    try:
        while data := client.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def test_another_user_cannot_connect(mount: TestMount, clients: list[socket.socket]) -> None:
    """By the permissions of directory and socket; see the unit tests for the peer's uid."""
    path = Path(mount.entry()["control"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"\0\xff\xfe garbage\n",
        b"[1, 2]\n",
        b'{"op": 5}\n',
        b'{"op": ["status"]}\n',
        b'{"op": "halt and catch fire"}\n',
        b'{"op": "status"\n',
        b"[" * 50_000 + b"\n",
        b'{"op": "warm", "path": "../../etc"}\n',
        b'{"op": "warm", "path": 7}\n',
        b'{"op": "warm", "path": "a\\u0000b"}\n',
        b'{"op": "warm", "path": ["x"]}\n',
        b'{"op": "end", "unmounting": 1}\n',
        b'{"op": "drain", "seconds": "for ever"}\n',
        b'{"op": "drain", "seconds": []}\n',
        b'{"op": "drain", "seconds": NaN}\n',
        b'{"op": "drain", "seconds": -1e400}\n',
    ],
)
def test_requests_that_make_no_sense(
    mount: TestMount, clients: list[socket.socket], line: bytes
) -> None:
    client = _connect(mount, clients)
    client.sendall(line)
    answers = [json.loads(text) for text in _read_all(client).splitlines()]
    assert not answers or "error" in answers[-1] or answers[-1].get("done")


def test_a_mounted_volume_does_not_end(mount: TestMount, clients: list[socket.socket]) -> None:
    client = _connect(mount, clients)
    client.sendall(b'{"op": "end"}\n')
    assert "unmount it first" in json.loads(_read_all(client))["error"]


def test_lines_without_an_end(mount: TestMount, clients: list[socket.socket]) -> None:
    client = _connect(mount, clients)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
        while True:
            client.sendall(b"x" * 65536)


def test_a_line_of_one_byte_a_second(mount: TestMount, clients: list[socket.socket]) -> None:
    client = _connect(mount, clients)
    started = time.monotonic()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
        while time.monotonic() - started < CUT_OFF:
            client.sendall(b"x")
            time.sleep(0.5)


def test_silent_clients(mount: TestMount, clients: list[socket.socket]) -> None:
    """A hundred of them: the worker serves the kernel meanwhile, and then the next client."""
    for _ in range(100):
        _connect(mount, clients)
    (mount.root / "many").mkdir()
    for number in range(50):
        (mount.root / "many" / f"{number}").write_bytes(b"content")
    assert len(os.listdir(mount.root / "many")) == 50
    wait_for(lambda: _answers(mount), CUT_OFF, "an answer")


def test_a_client_that_does_not_read(mount: TestMount, clients: list[socket.socket]) -> None:
    for _ in range(5):
        _connect(mount, clients).sendall(b'{"op": "status"}\n')
    assert _status(mount)["open_files"] == 0


def test_a_client_that_goes_away(mount: TestMount, clients: list[socket.socket]) -> None:
    for _ in range(10):
        client = _connect(mount, clients)
        client.sendall(b'{"op": "warm", "path": ""}\n')
        client.close()
