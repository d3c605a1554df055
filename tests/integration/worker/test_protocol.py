"""How a worker begins and ends, as its supervisor sees it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from csi_slayer.worker import channel
from tests.integration.worker.conftest import MakePlace
from tests.integration.worker.workers import s3_values
from tests.support.mounts import wait_for
from tests.support.servers import S3Server


def test_a_worker_mounts_serves_and_ends_with_its_mount(make_place: MakePlace) -> None:
    place = make_place(labels={"claim": "data", "namespace": "shop"})
    worker = place.start().ready()
    (place.root / "file").write_text("text")
    place.unmount()
    assert worker.expect("ended") == {"ended": 0}
    assert worker.receive() is None
    assert worker.ended() == channel.UNMOUNTED
    lines = [json.loads(line) for line in place.log.read_text().splitlines()]
    (mounted,) = (line for line in lines if line["event"] == "mounted")
    assert (mounted["claim"], mounted["namespace"]) == ("data", "shop")


def test_a_worker_that_cannot_start_says_why_and_with_which_code(
    make_place: MakePlace, tmp_path: Path
) -> None:
    place = make_place({"store.url": f"file://{tmp_path}/absent"})
    worker = place.start()
    message = worker.receive()
    assert message is not None
    assert "absent" in message["error"]
    assert message["code"] == "NOT_FOUND"
    assert worker.ended() == channel.FAILED


def test_a_bound_worker_ends_with_its_supervisor_and_a_successor_goes_on(
    make_place: MakePlace,
) -> None:
    place = make_place()
    first = place.start(bound=True).ready()
    # A process of its own has the file open: while no worker is there, ours cannot fork with it.
    with subprocess.Popen(
        ["sh", "-c", 'exec >"$0"; echo one; read line; echo two', str(place.root / "file")],
        stdin=subprocess.PIPE,
    ) as writer:
        wait_for(lambda: (place.root / "file").exists(), what="the file")
        first.end.close()
        assert first.ended() == channel.ABANDONED
        assert place.session is not None
        place.start(place.session, bound=True).ready()
        writer.communicate(b"\n")
        assert writer.returncode == 0
    assert (place.root / "file").read_text() == "one\ntwo\n"


def test_a_bound_worker_ends_with_its_supervisor_while_it_starts(make_place: MakePlace) -> None:
    # The port is bound and not listened on: the worker waits for the store that does not answer.
    place = make_place({
        "store.url": "s3://bucket", "store.endpoint": "http://127.0.0.1:1",
        "store.access_key_id": "key", "store.secret_access_key": "secret",
    })  # fmt: skip
    worker = place.start(bound=True)
    worker.end.close()
    assert worker.ended() == channel.ABANDONED


def test_an_unbound_worker_outlives_its_supervisor(make_place: MakePlace) -> None:
    place = make_place()
    worker = place.start().ready()
    worker.end.close()
    (place.root / "file").write_text("text")
    assert worker.ask("status")["pid"] == worker.process.pid
    place.unmount()
    assert worker.ended() == channel.UNMOUNTED


def test_what_an_unmounted_volume_left_is_uploaded_without_a_mount(
    make_place: MakePlace, minio: S3Server
) -> None:
    place = make_place({**s3_values(minio), "volume.durability": "writeback"})
    worker = place.start().ready()
    assert list(place.root.iterdir()) == []  # known from here on, so that nobody asks the store
    minio.pause()
    try:
        (place.root / "file").write_text("text")
        worker.process.kill()
        worker.ended()
        place.unmount()
    finally:
        minio.resume()
    worker = place.start({"unmounted": True})
    assert worker.expect("ended") == {"ended": 0}
    assert worker.ended() == channel.UNMOUNTED
    assert minio.admin.get(place.config.store.bucket, "file") == b"text"


@pytest.mark.parametrize("data", [b"not json", b"[]"])
def test_what_is_no_message_does_not_end_a_worker(make_place: MakePlace, data: bytes) -> None:
    place = make_place()
    worker = place.start(bound=True).ready()
    worker.end.send(data)
    wait_for(lambda: "malformed message" in place.log.read_text(), what="a line about it")
    assert worker.ask("status")["pid"] == worker.process.pid
