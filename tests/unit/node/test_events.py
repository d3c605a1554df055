"""Kubernetes events: who is told what, how often, and what an API server gets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.node import events as module
from csi_slayer.node.events import Events
from csi_slayer.node.records import Record, Target
from csi_slayer.node.requests import Pod
from tests.support.certs import make_certificate


class ApiServer:
    """Takes events, or refuses them with ``status``; with those of ``first`` before, of which 0 is
    no answer."""

    def __init__(self, directory: Path) -> None:
        certificate, context = make_certificate(directory)
        (directory / "ca.crt").write_bytes(certificate.read_bytes())
        (directory / "token").write_text("the-token\n")
        self.status = 201
        self.first: list[int] = []
        self.got: list[tuple[str, str, dict[str, Any]]] = []
        self.arrived = threading.Semaphore(0)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.got.append((self.path, self.headers["Authorization"], body))
                status = outer.first.pop(0) if outer.first else outer.status
                if status:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                outer.arrived.release()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    started = ApiServer(tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(started.port))
    yield started
    started.close()


def record(*pods: str, **labels: str) -> Record:
    targets = {f"/{name}": Target(pod=Pod(name, "team", f"uid-{name}")) for name in pods}
    return Record("0" * 16, "volume", "driver", {}, labels, targets)


async def wait(server: ApiServer) -> None:
    assert await asyncio.to_thread(server.arrived.acquire, timeout=20)


def test_each_pod_is_told(server: ApiServer, tmp_path: Path) -> None:
    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        events.warn(record("a", "b"), "Reason", "x" * 5000)
        await wait(server)
        await wait(server)
        await events.close()
        assert events.dropped == 0

    asyncio.run(run())
    path, authorization, body = server.got[0]
    assert path == "/api/v1/namespaces/team/events"
    assert authorization == "Bearer the-token"
    assert body["involvedObject"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "team", "name": "a", "uid": "uid-a"
    }  # fmt: skip
    assert body["reason"] == "Reason"
    assert len(body["message"]) <= 1024
    assert body["source"] == {"component": "csi.slayerfs.io", "host": "node-1"}
    assert server.got[1][2]["involvedObject"]["name"] == "b"


def test_the_same_is_said_once_in_a_while(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        for _ in range(5):
            events.warn(record("a"), "Reason", "message")
        events.warn(record("a"), "Other", "message")
        await wait(server)
        await wait(server)
        monkeypatch.setattr(module, "AGAIN", 0.0)
        events.warn(record("a"), "Reason", "message")
        await wait(server)
        await events.close()

    asyncio.run(run())
    assert [body["reason"] for _path, _auth, body in server.got] == ["Reason", "Other", "Reason"]


def test_another_message_is_told_but_not_for_a_number_and_not_without_end(
    server: ApiServer, tmp_path: Path
) -> None:
    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        for minutes in range(5):
            events.warn(record("a"), "Reason", f"it waits for {minutes} minutes")
            events.warn(record("a"), "Reason", "it is refused")
        for letter in "abcdefghij":
            events.warn(record("a"), "Reason", f"file {letter} is refused")
        for _ in range(module.DIFFERENT):
            await wait(server)
        events.warn(record("b"), "Reason", "it is refused")
        await wait(server)
        await events.close()

    asyncio.run(run())
    assert [body["message"] for _path, _auth, body in server.got] == [
        "it waits for 0 minutes", "it is refused", "file a is refused", "file b is refused",
        "file c is refused", "it is refused",
    ]  # fmt: skip


def test_without_a_pod_the_claim_is_told(server: ApiServer, tmp_path: Path) -> None:
    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        events.warn(record(claim="data", namespace="team"), "Reason", "message")
        events.warn(record(), "Reason", "nobody to tell")
        await wait(server)
        await events.close()

    asyncio.run(run())
    ((_path, _auth, body),) = server.got
    assert body["involvedObject"]["kind"] == "PersistentVolumeClaim"
    assert body["involvedObject"]["name"] == "data"


def test_a_refusal_and_too_many_are_counted(server: ApiServer, tmp_path: Path) -> None:
    server.status = 403

    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        for number in range(module.WAITING + 3):
            events.warn(record(f"pod{number}"), "Reason", "message")
        assert events.dropped == 3
        events.start()
        await wait(server)
        await wait(server)
        await events.close()
        assert events.sent == 0
        assert events.dropped >= 4

    asyncio.run(run())


def test_one_that_does_not_arrive_is_sent_again(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    server.first = [0, 503, 429]

    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        events.warn(record("a", "b"), "Reason", "message")
        for _ in range(5):
            await wait(server)
        await events.close()
        assert events.sent >= 1
        assert events.dropped == 0

    asyncio.run(run())
    told = [body["involvedObject"]["name"] for _path, _auth, body in server.got]
    assert told == ["a", "a", "a", "a", "b"]


def test_one_that_never_arrives_keeps_the_others_for_some_attempts_only(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.0)
    server.first = [503] * module.ATTEMPTS

    async def run() -> None:
        events = Events("node-1", enabled=True, account=tmp_path)
        events.start()
        events.warn(record("a", "b"), "Reason", "message")
        for _ in range(module.ATTEMPTS + 1):
            await wait(server)
        await events.close()
        assert events.dropped == 1

    asyncio.run(run())
    told = [body["involvedObject"]["name"] for _path, _auth, body in server.got]
    assert told == ["a"] * module.ATTEMPTS + ["b"]


@pytest.mark.parametrize("enabled", [True, False])
def test_outside_a_cluster_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, enabled: bool
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def run() -> None:
        events = Events("node-1", enabled=enabled, account=tmp_path)
        events.start()
        events.warn(record("a"), "Reason", "message")
        await events.close()
        assert events.dropped == events.sent == 0

    asyncio.run(run())
