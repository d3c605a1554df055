"""The client of the control socket, against a server that answers as it is told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csi_slayer.cli.control import NoWorker, ask, mount_of
from csi_slayer.errors import SlayerError
from csi_slayer.node import registry
from csi_slayer.node.registry import Mounted


def entry(control: str, mountpoint: str = "/mnt", volume: str = "v") -> Mounted:
    return Mounted(volume, "s3://bucket", mountpoint, 1, control, "/state", "/cache")


Answering = Callable[[bytes], Mounted]


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Answering]:
    """A server that sends given bytes for the first request and closes; collects requests."""
    path = str(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        threads = []

        def start(answer: bytes) -> Mounted:
            def serve() -> None:
                client, _ = server.accept()
                with client:
                    request = client.makefile("rb").readline()
                    assert json.loads(request) == {"op": "status", "path": "x"}
                    client.sendall(answer)

            threads.append(threading.Thread(target=serve))
            threads[-1].start()
            return entry(path)

        yield start
        for thread in threads:
            thread.join(30)


def test_answers_are_yielded_until_the_end(answering: Answering) -> None:
    found = answering(b'{"n": 1}\n{"n": 2}\n{"done": true}\n{"n": 3}\n')
    assert list(ask(found, "status", path="x")) == [{"n": 1}, {"n": 2}]


def test_an_error_has_the_workers_words(answering: Answering) -> None:
    answers = ask(answering(b'{"n": 1}\n{"error": "no such file"}\n'), "status", path="x")
    assert next(answers) == {"n": 1}
    with pytest.raises(SlayerError, match="no such file"):
        next(answers)


@pytest.mark.parametrize("answer", [b"", b'{"n": 1}\n', b'{"n": 1}\n{"n"', b"garbage\n"])
def test_an_answer_without_an_end_is_an_error(answering: Answering, answer: bytes) -> None:
    with pytest.raises(NoWorker):
        list(ask(answering(answer), "status", path="x"))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NoWorker, match="/mnt does not answer"):
        list(ask(entry(str(tmp_path / "none")), "status"))


def test_a_silent_worker_is_not_waited_for_without_end(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(NoWorker, match="timed out"):
            list(ask(entry(path), "status", timeout=0.05))


def test_a_worker_that_talks_on_is_not_listened_to_beyond_the_time(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")

    def talk() -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            while True:
                client.sendall(b'{"n": 1}\n')
                time.sleep(0.02)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(NoWorker, match="timed out"):
            list(ask(entry(path), "status", timeout=60, within=0.3))
        thread.join(30)


def test_the_volume_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "run_directory", lambda: tmp_path)
    outer, inner = entry("a", "/mnt", "a"), entry("b", "/mnt/in/side", "b")
    registry.write(outer)
    registry.write(inner)
    assert mount_of("/mnt") == (outer, "")
    assert mount_of("/mnt/a//b/../c") == (outer, "a/c")
    assert mount_of("/mnt/in/sider") == (outer, "in/sider")
    assert mount_of("/mnt/in/side/x") == (inner, "x")
    assert mount_of("/mnt2") is None
    registry.write(later := entry("0", "/mnt", "0"))
    os.utime(tmp_path / "0.json", (2**33, 2**33))
    assert mount_of("/mnt/x") == (later, "x")


def test_links_above_a_mount_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, base = tmp_path / "run", tmp_path.resolve()
    run.mkdir()
    (base / "real/mnt").mkdir(parents=True)
    (base / "link").symlink_to("real")
    (base / "far").symlink_to(base / "link/mnt")
    (base / "circle").symlink_to("circle/more")
    (base / "real/mnt/up").symlink_to("..")  # in the mount: not looked at
    monkeypatch.setattr(registry, "run_directory", lambda: run)
    registry.write(there := entry(f"{base}/run", f"{base}/real/mnt", "a"))
    assert mount_of(f"{base}/link/mnt") == (there, "")
    assert mount_of(f"{base}/far/a/b") == (there, "a/b")
    assert mount_of(f"{base}/far/up/x") == (there, "up/x")
    assert mount_of(f"{base}/circle") is None
    assert mount_of(f"{base}/link") is None
