"""The keeper: what is put comes back, nothing else does, and no client can harm it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.node import keeper
from csi_slayer.node.keeper import Keeper


class Running:
    """A keeper in a thread of this process."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.keeper = Keeper(self.path)
        self._stop = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._clients: list[socket.socket] = []

    def _run(self) -> None:
        while not self._stop:
            self.keeper.step(0.02)

    def client(self) -> socket.socket:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        end.settimeout(10)
        end.connect(self.path)
        self._clients.append(end)
        return end

    def ask(self, *fds: int, **request: Any) -> tuple[dict[str, Any], list[int]]:
        return exchange(self.client(), json.dumps(request).encode(), *fds)

    def close(self) -> None:
        if self._stop:
            return
        self._stop = True
        self._thread.join()
        for client in self._clients:
            client.close()
        for name in self.keeper.store.handle({"op": "list"}, [])[0]["names"]:
            self.keeper.store.handle({"op": "drop", "name": name}, [])
        self.keeper.close()


def exchange(end: socket.socket, data: bytes, *fds: int) -> tuple[dict[str, Any], list[int]]:
    socket.send_fds(end, [data], list(fds))
    answer, received, _flags, _address = socket.recv_fds(end, keeper.LIMIT, keeper.FDS)
    return json.loads(answer), list(received)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path / "keeper.sock")
    yield started
    started.close()


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def test_what_is_put_is_got(running: Running, tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as a, (tmp_path / "b").open("w") as b:
        inodes = [inode(a.fileno()), inode(b.fileno())]
        assert running.ask(a.fileno(), b.fileno(), op="put", name="v", state={"x": 1})[0]["ok"]
    for _ in range(2):
        answer, fds = running.ask(op="get", name="v")
        assert answer == {"ok": True, "state": {"x": 1}}
        assert [inode(fd) for fd in fds] == inodes
        for fd in fds:
            os.close(fd)
    assert running.ask(op="list")[0]["names"] == ["v"]
    assert running.ask(op="drop", name="v")[0] == {"ok": True}
    assert running.ask(op="drop", name="v")[0] == {"ok": True}
    assert "error" in running.ask(op="get", name="v")[0]


def test_descriptors_are_closed_when_replaced_dropped_or_refused(
    running: Running, tmp_path: Path
) -> None:
    client = running.client()
    with (tmp_path / "a").open("w") as a:
        exchange(client, json.dumps({"op": "list"}).encode())
        before = len(os.listdir("/proc/self/fd"))
        put = json.dumps({"op": "put", "name": "v", "state": {}}).encode()
        for _ in range(5):
            exchange(client, put, a.fileno(), a.fileno())
        assert len(os.listdir("/proc/self/fd")) == before + 2
        exchange(client, json.dumps({"op": "put", "name": "", "state": {}}).encode(), a.fileno())
        exchange(client, json.dumps({"op": "put", "name": "w"}).encode(), a.fileno())
        exchange(client, json.dumps({"op": "drop", "name": "v"}).encode())
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[]", b"3", b"null", b"{}", b'{"op": 1}', b'{"op": "put"}', b"[" * 50_000,
     b'{"op": "get", "name": 5}', b'{"op": "put", "name": "v", "state": []}', b"\xff\xfe",
     json.dumps({"op": "get", "name": "n" * 100}).encode(), b"x" * (keeper.LIMIT + 1)],
)  # fmt: skip
def test_nonsense_is_refused_and_harms_nobody(running: Running, data: bytes) -> None:
    client = running.client()
    client.send(data)
    answer = client.recv(keeper.LIMIT)
    assert answer == b"" or "error" in json.loads(answer)
    assert running.ask(op="list")[0] == {"ok": True, "names": []}


@given(st.binary(min_size=1, max_size=300))
def test_no_request_is_fatal(data: bytes) -> None:
    store = keeper.Store()
    try:
        request = json.loads(data)
    except ValueError:
        return
    try:
        store.handle(request, [])
    except keeper.Refused:
        pass


def test_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ENTRIES", 2)
    store = keeper.Store()
    for name in ("a", "b", "a"):
        store.handle({"op": "put", "name": name, "state": {}}, [])
    with pytest.raises(keeper.Refused):
        store.handle({"op": "put", "name": "c", "state": {}}, [])


def test_more_clients_than_the_limit_are_turned_away(running: Running) -> None:
    clients = [running.client() for _ in range(keeper.CLIENTS)]
    for client in clients:
        assert exchange(client, b'{"op": "list"}')[0]["ok"]
    assert running.client().recv(10) == b""
    clients[0].close()
    clients[0] = running.client()


def test_the_socket_is_private_and_replaces_an_old_one(running: Running, tmp_path: Path) -> None:
    path = tmp_path / "keeper.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    running.close()
    assert path.exists()
    again = Running(path)
    try:
        assert again.ask(op="put", name="v", state={})[0]["ok"]
    finally:
        again.close()


def test_it_runs_alone_without_the_project(tmp_path: Path) -> None:
    """Standard library only: it is upgraded almost never, so it must need almost nothing."""
    program = tmp_path / "keeper.py"
    program.write_bytes(Path(keeper.__file__).read_bytes())
    check = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", check, str(program)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "csi_slayer" not in result.stdout
    assert "asyncio" not in result.stdout.split()
    usage = subprocess.run([sys.executable, str(program)], capture_output=True, timeout=60)
    assert usage.returncode == 1
    assert b"usage" in usage.stderr


def test_there_is_one_keeper_of_a_socket(tmp_path: Path) -> None:
    """A second one would take the path away from what the first holds."""
    path = str(tmp_path / "keeper.sock")
    first = keeper.lock(path)
    with pytest.raises(keeper.InUse, match="another keeper"):
        keeper.lock(path, timeout=0.01)
    os.close(first)
    os.close(keeper.lock(path))


def names_at(made: Keeper, path: Path) -> list[str]:
    """What a client that connects by the path is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as end:
        end.settimeout(10)
        end.connect(str(path))
        end.send(b'{"op": "list"}')
        made.step(0)  # takes it on
        made.step(10)
        names: list[str] = json.loads(end.recv(keeper.LIMIT))["names"]
    made.step(10)
    return names


def empty(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()


def test_a_socket_that_was_removed_is_served_again(tmp_path: Path) -> None:
    """Else all mounts end with the node service: its successor connects by the path."""
    path = tmp_path / "keeper.sock"
    with contextlib.closing(Keeper(str(path))) as made:
        made.store.handle({"op": "put", "name": "v", "state": {}}, [])
        made.look_after()
        assert names_at(made, path) == ["v"]
        empty(tmp_path)
        made.look_after()
        assert names_at(made, path) == ["v"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(keeper.InUse):
            keeper.lock(str(path), timeout=0)


def test_a_path_that_another_keeper_has_taken_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "keeper.sock"
    with contextlib.closing(Keeper(str(path))) as made:
        empty(tmp_path)
        other = keeper.lock(str(path))
        made.look_after()
        assert not path.exists()
        os.close(other)
        made.look_after()
        assert names_at(made, path) == []


def test_a_directory_that_is_gone_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run/keeper.sock"
    with contextlib.closing(Keeper(str(path))) as made:
        shutil.rmtree(path.parent)
        with monkeypatch.context() as patched:
            patched.setattr(os, "makedirs", lambda *_args, **_options: None)  # nor can be made
            made.look_after()
        assert not path.exists()
        made.look_after()
        assert names_at(made, path) == []
