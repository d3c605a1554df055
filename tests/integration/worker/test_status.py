"""What a worker tells of itself."""

from __future__ import annotations

import errno
import os
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.worker.conftest import MakePlace
from tests.integration.worker.workers import s3_values
from tests.support.mounts import wait_for
from tests.support.servers import S3Server

LABELS = {"volume": "pvc-1", "claim": "data", "namespace": "shop"}


def test_metrics_have_the_volumes_labels(make_place: MakePlace) -> None:
    place = make_place(labels=LABELS)
    worker = place.start().ready()
    (place.root / "file").write_text("text")
    families = list(text_string_to_metric_families(worker.ask("metrics")["text"]))
    samples = [sample for family in families for sample in family.samples]
    names = {sample.name for sample in samples}
    assert {"slayerfs_upcalls_total", "slayerfs_store_answers"} <= names
    assert "process_resident_memory_bytes" in names
    assert "slayerfs_store_request_seconds_count" in names
    for sample in samples:
        assert sample.labels.items() >= LABELS.items(), sample
    assert worker.ask("status")["labels"] == LABELS


def test_a_store_that_is_away_is_known_and_so_is_its_return(
    make_place: MakePlace, minio: S3Server
) -> None:
    place = make_place({**s3_values(minio), "volume.durability": "writeback"})
    worker = place.start().ready()
    assert list(place.root.iterdir()) == []
    status = worker.ask("status")
    assert status["store"]["answers"]
    assert abs(status["store"]["last_success"] - time.time()) < 60
    assert status["store"]["last_error"] == ""
    assert (status["oldest_pending"], status["conflicts"]) == (None, 0)

    minio.stop()
    try:
        (place.root / "file").write_text("text")
        wait_for(lambda: not worker.ask("status")["store"]["answers"], what="a failure")
        status = worker.ask("status")
        assert "refused" in status["store"]["last_error"]
        assert status["store"]["last_failure"] > status["store"]["last_success"]
        assert status["oldest_pending"] >= 0
    finally:
        minio.start()
    wait_for(lambda: worker.ask("status")["pending_uploads"] == 0, what="the upload")
    assert worker.ask("status")["store"]["answers"]


def test_an_absent_object_is_an_answer_and_an_absent_bucket_is_none(
    make_place: MakePlace, minio: S3Server
) -> None:
    place = make_place({**s3_values(minio), "volume.metadata_ttl": 0, "volume.negative_ttl": 0})
    worker = place.start().ready()
    assert not (place.root / "absent").exists()
    assert worker.ask("status")["store"]["answers"]
    minio.admin.delete_bucket(place.config.store.bucket)
    with pytest.raises(OSError) as caught:
        os.stat(place.root / "absent")
    assert caught.value.errno == errno.EIO
    assert _failed(worker.ask("status"))


def _failed(status: dict[str, dict[str, object]]) -> bool:
    store = status["store"]
    return not store["answers"] and "does not exist" in str(store["last_error"])


def test_conflicts_count_until_somebody_has_removed_what_was_kept(
    make_place: MakePlace, minio: S3Server
) -> None:
    place = make_place({**s3_values(minio), "volume.durability": "writeback",
                        "volume.metadata_ttl": "1h"})  # fmt: skip
    bucket = place.config.store.bucket
    minio.admin.put(bucket, "file", b"old")
    worker = place.start().ready()
    assert (place.root / "file").read_bytes() == b"old"
    minio.admin.put(bucket, "file", b"theirs")
    (place.root / "file").write_text("mine")
    wait_for(lambda: worker.ask("status")["conflicts"] == 1, what="a conflict")
    worker.process.kill()
    worker.ended()
    worker = place.start(place.session).ready()
    assert worker.ask("status")["conflicts"] == 1
    for path in (place.config.cache.directory / "conflicts" / place.spec.volume).iterdir():
        path.unlink()
    assert worker.ask("status")["conflicts"] == 0
