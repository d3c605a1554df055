"""What a mount says of itself: metrics, log lines, spans."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.test_faults import PATIENT, Faulty
from tests.support.faults import Status
from tests.support.mounts import wait_for
from tests.support.servers import S3Server, free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def faulty(versitygw: S3Server, tmp_path: Path) -> Iterator[Faulty]:
    made = Faulty(versitygw, tmp_path)
    yield made
    made.close()


def scrape(address: str) -> dict[str, float]:
    """Samples by name and labels, the volume's apart."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            labels = name.partition("{")[2].rstrip("}").split(",")
            kept = ",".join(text for text in labels if text and not text.startswith("volume="))
            found[f"{name.partition('{')[0]}{{{kept}}}"] = float(value)
    return found


def test_metrics(faulty: Faulty) -> None:
    faulty.put("small", b"x" * 100_000)
    address = f"127.0.0.1:{free_port()}"
    mount = faulty.mount(f"metrics.listen={address}", *PATIENT)
    faulty.proxy.inject(Status(503, "SlowDown"), kind="GetObject", times=1)
    assert len((mount.root / "small").read_bytes()) == 100_000
    assert len((mount.root / "small").read_bytes()) == 100_000
    (mount.root / "new").write_bytes(b"content")
    with pytest.raises(FileNotFoundError):
        (mount.root / "absent").unlink()
    with pytest.raises(OSError):
        (mount.root / "new").mkdir()
    found = scrape(address)
    assert found['slayerfs_operation_seconds_count{operation="lookup"}'] > 0
    assert found['slayerfs_operation_seconds_bucket{le="+Inf",operation="create"}'] == 1
    assert found["slayerfs_upcalls_total{}"] > 5
    assert found["slayerfs_opens_total{}"] == 3
    assert found["slayerfs_passthrough_opens_total{}"] <= 3
    assert found['slayerfs_store_request_seconds_count{operation="PutObject",status="200"}'] == 1
    assert found['slayerfs_store_request_seconds_count{operation="GetObject",status="503"}'] == 1
    assert found["slayerfs_store_retries_total{}"] >= 1
    assert found["slayerfs_store_received_bytes_total{}"] >= 100_000
    assert found["slayerfs_conflicts_total{}"] == 0
    for name in ("cache_hit_bytes_total", "cache_miss_bytes_total", "dirty_bytes",
                 "pending_uploads", "cache_bytes", "hidden_keys_total"):  # fmt: skip
        assert f"slayerfs_{name}{{}}" in found
    mount.umount()


def test_errors_are_counted_by_errno(make_mount: MakeMount, objects: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    mount = make_mount(options=[f"metrics.listen={address}", "fuse.disable=xattr"]).mount()
    (mount.root / "d").mkdir()
    (mount.root / "d/file").write_bytes(b"")
    with pytest.raises(OSError):
        (mount.root / "d").rmdir()
    found = scrape(address)
    assert found['slayerfs_operation_errors_total{errno="ENOTEMPTY",operation="rmdir"}'] == 1
    assert mount.ask_status()["counters"]["operation_errors"] >= 1
    mount.umount()


def test_a_worker_that_is_started_again_needs_no_log_and_no_port(
    make_mount: MakeMount, objects: Path, tmp_path: Path
) -> None:
    """They may be gone by then, and programs would wait for the volume for ever."""
    (objects / "file").write_bytes(b"content")
    logs, port = tmp_path / "logs", free_port()
    logs.mkdir()
    options = [f"metrics.listen=127.0.0.1:{port}", f"log.file={logs}/mount.log"]
    mount = make_mount(options=options).mount()
    shutil.rmtree(logs)
    worker = mount.worker_pid()
    supervisor = mount.entry()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    try:
        taken = wait_for(lambda: _listen(port), what="the worker's end")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    with taken:
        assert (mount.root / "file").read_bytes() == b"content"
    assert "No such file or directory" in mount.log
    assert "cannot listen on" in mount.log
    mount.umount()


def _listen(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


def test_log_lines_say_volume_and_request(faulty: Faulty) -> None:
    faulty.put("file", b"content")
    mount = faulty.mount()
    assert (mount.root / "file").stat().st_size == 7
    faulty.proxy.inject(Status(500), kind="GetObject")
    with pytest.raises(OSError):
        (mount.root / "file").read_bytes()
    # A thread writes the log: the program may have its answer first.
    wait_for(lambda: "fuse_request_failed" in mount.log and mount.log.endswith("\n"))
    lines = [json.loads(line) for line in mount.log.splitlines()]
    (failed,) = [line for line in lines if line["event"] == "fuse_request_failed"]
    assert failed["volume"] == mount.entry()["volume"]
    assert failed["request"] > 0
    assert "HTTP 500" in failed["error"]
    mount.umount()


def test_spans(make_mount: MakeMount, objects: Path) -> None:
    """They arrive at the collector, those of store requests too."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    received: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
        (objects / "file").write_bytes(b"content")
        mount = make_mount(
            options=[f"tracing.endpoint={endpoint}", "tracing.sample_ratio=1"]
        ).mount()
        assert (mount.root / "file").read_bytes() == b"content"
        mount.umount()
        wait_for(lambda: b"fuse.open" in b"".join(received), what="spans")
        body = b"".join(received)
        for name in (b"fuse.lookup", b"s3.ListObjectsV2", b"slayerfs.volume"):
            assert name in body
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
