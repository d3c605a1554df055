"""The control socket by itself: who may talk, how much, and for how long."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cli import control as client
from csi_slayer.errors import SlayerError
from csi_slayer.node.registry import Mounted
from csi_slayer.worker import control
from csi_slayer.worker.control import ControlServer

CLIENT = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
try:
    client.sendall(b'{"op": "count"}\\n')
    print(client.recv(65536).decode(), end="")
except (ConnectionResetError, BrokenPipeError):
    pass
"""


@pytest.fixture
def path() -> Iterator[Path]:
    """In a directory that everybody may enter, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory / "control.sock"
    shutil.rmtree(directory)


async def _count(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for number in range(3):
        yield {"number": number}


async def _fail(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield {"number": 1}
    raise SlayerError("one line of why")


async def _ask(path: Path, line: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    received = await reader.read()
    writer.close()
    return [json.loads(text) for text in received.splitlines()]


def _serve(path: Path) -> ControlServer:
    return ControlServer(path, {"count": _count, "fail": _fail})


def test_answers_end_with_done_or_error(path: Path) -> None:
    async def test() -> None:
        server = _serve(path)
        await server.start()
        assert await _ask(path, b'{"op": "count"}\n') == [
            {"number": 0}, {"number": 1}, {"number": 2}, {"done": True},
        ]  # fmt: skip
        assert await _ask(path, b'{"op": "fail"}\n') == [
            {"number": 1}, {"error": "one line of why"},
        ]  # fmt: skip
        for line in (b"\n", b"{\n", b"[]\n", b'{"op": []}\n', b"[" * 60_000 + b"\n", b"\xff\n"):
            assert await _ask(path, line) == [{"error": "unknown operation"}], line
        await server.close()
        assert not path.exists()

    asyncio.run(test())


def test_a_socket_that_was_removed_is_served_again(path: Path) -> None:
    counted = [{"number": 0}, {"number": 1}, {"number": 2}, {"done": True}]

    async def test() -> None:
        server = _serve(path)
        await server.start()
        await server.look_after()
        shutil.rmtree(path.parent)
        await server.look_after()
        assert await _ask(path, b'{"op": "count"}\n') == counted
        assert path.stat().st_mode & 0o777 == 0o600
        shutil.rmtree(path.parent)
        path.parent.touch()
        with pytest.raises(OSError, match="exists"):
            await server.look_after()
        path.parent.unlink()
        await server.look_after()
        assert await _ask(path, b'{"op": "count"}\n') == counted
        await server.close()

    asyncio.run(test())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_another_uid_gets_no_answer(path: Path) -> None:
    async def talk_as(uid: int) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, str(path), str(uid), stdout=subprocess.PIPE
        )
        out, _err = await process.communicate()
        assert process.returncode == 0
        return out.decode()

    async def test() -> None:
        server = _serve(path)
        await server.start()
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(0o666)
        assert await talk_as(pwd.getpwnam("nobody").pw_uid) == ""
        assert '{"number": 0}' in await talk_as(0)
        await server.close()

    asyncio.run(test())


def test_long_lines_and_silence_are_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT", 0.1)

    async def test() -> None:
        server = _serve(path)
        await server.start()
        for line in (b"", b'{"op": "count"', b"x" * (control.LINE_LIMIT + 1)):
            try:
                assert await _ask(path, line) == []
            except ConnectionError:
                pass
        assert len(await _ask(path, b'{"op": "count"}\n')) == 4
        await server.close()

    asyncio.run(test())


def _fails(path: Path) -> str:
    """What the commands say of it."""
    entry = Mounted("v", "file:///o", "/mnt", 0, str(path), "", "")
    with pytest.raises(SlayerError) as failure:
        list(client.ask(entry, "count"))
    return str(failure.value)


def test_too_many_clients_are_refused_and_the_next_one_served(path: Path) -> None:
    async def test() -> None:
        server = _serve(path)
        await server.start()
        silent = [await asyncio.open_unix_connection(path) for _ in range(control.CLIENTS + 20)]
        refused = await asyncio.gather(*(reader.read() for reader, _writer in silent[-20:]))
        assert [list(json.loads(answer)) for answer in refused] == [["busy"]] * 20
        busy = await asyncio.to_thread(_fails, path)
        assert busy == "the worker of /mnt is busy (it serves 16 clients already): try again"
        for _reader, writer in silent:
            writer.close()
            await writer.wait_closed()
        while server._clients:  # noqa: ASYNC110 - noticed in the next turns of the loop
            await asyncio.sleep(0.01)
        assert len(await _ask(path, b'{"op": "count"}\n')) == 4
        await server.close()

    asyncio.run(test())


def test_directories_that_others_make_meanwhile_can_be_entered(path: Path) -> None:
    """The socket's umask was that of every thread: one of the cache had no way in for its owner."""

    async def make(number: int) -> int:
        directory = path.parent / str(number)
        directory.mkdir(mode=0o700)
        return directory.stat().st_mode & 0o777

    async def test() -> None:
        server = _serve(path)
        _, *modes = await asyncio.gather(server.start(), *(make(number) for number in range(5)))
        assert modes == [0o700] * 5
        assert path.stat().st_mode & 0o777 == 0o600
        await server.close()

    asyncio.run(test())
