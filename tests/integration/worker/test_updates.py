"""Updates of a running worker."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest

from tests.integration.mount.volumes import files_with
from tests.integration.worker.conftest import MakePlace
from tests.integration.worker.workers import Place, s3_values
from tests.support.mounts import wait_for
from tests.support.oidc import WebIdentity
from tests.support.servers import S3Server

MIB = 1 << 20


def test_a_quota_is_set_changed_and_lifted(make_place: MakePlace) -> None:
    place = make_place()
    objects = place.root.parent / "objects"
    (objects / "old").write_bytes(b"x" * MIB)
    worker = place.start().ready()
    assert os.statvfs(place.root).f_blocks * os.statvfs(place.root).f_frsize > 1 << 40

    assert worker.update(place.changed(volume__quota=2 * MIB)) == {"updated": 1, "later": []}
    state = os.statvfs(place.root)
    assert state.f_blocks * state.f_frsize == 2 * MIB
    wait_for(lambda: worker.ask("status")["used_bytes"] == MIB, what="the tree to be measured")
    with pytest.raises(OSError, match="No space") as raised:
        (place.root / "new").write_bytes(b"x" * 2 * MIB)
    assert raised.value.errno == errno.ENOSPC

    worker.update(place.changed(volume__quota=8 * MIB))
    (place.root / "new").write_bytes(b"x" * 2 * MIB)
    worker.update(place.changed())
    (place.root / "large").write_bytes(b"x" * 9 * MIB)
    assert worker.ask("status")["quota"] is None


def test_the_durability_of_the_next_close_changes(make_place: MakePlace, minio: S3Server) -> None:
    place = _s3(make_place, minio)
    worker = place.start().ready()
    list(place.root.iterdir())
    worker.update(place.changed(volume__durability="writeback"))
    minio.pause()
    try:
        (place.root / "queued").write_text("text")  # does not wait for the store
        assert worker.ask("status")["durability"] == "writeback"
    finally:
        minio.resume()
    worker.update(place.changed(volume__durability="close"))
    (place.root / "stored").write_text("text")
    assert minio.admin.get(_bucket(place), "stored") == b"text"


def test_times_change_with_the_next_look(make_place: MakePlace) -> None:
    place = make_place({"volume.negative_ttl": "1h", "volume.metadata_ttl": "1h"})
    objects = place.root.parent / "objects"
    worker = place.start().ready()
    assert list(place.root.iterdir()) == []
    worker.update(place.changed(volume__negative_ttl=0, volume__metadata_ttl=0))
    (objects / "file").write_text("text")
    assert (place.root / "file").read_text() == "text"


def test_what_cannot_change_is_named_and_nothing_changes(make_place: MakePlace) -> None:
    place = make_place()
    worker = place.start().ready()
    answer = worker.update(
        place.changed(volume__quota=MIB, volume__uid=77, volume__attributes="posix")
    )
    assert answer["update_failed"] == 1
    assert answer["code"] == "FAILED_PRECONDITION"
    assert "volume.uid" in answer["error"]
    assert "volume.attributes" in answer["error"]
    assert "quota" not in answer["error"]
    assert worker.ask("status")["quota"] is None
    answer = worker.update("{}")
    assert answer["code"] == "INVALID_ARGUMENT"
    assert "store: required" in answer["error"]


@pytest.mark.parametrize(("name", "value"), [("close_to_open", True), ("open_wait", "5s")])
def test_an_open_that_the_kernel_does_itself_asks_nobody(
    make_place: MakePlace, name: str, value: object
) -> None:
    place = make_place({"volume.read_only": True})
    worker = place.start().ready()
    answer = worker.update(place.changed(**{f"volume__{name}": value}))
    if worker.place.session is not None and worker.place.session["zero_open"]:
        assert f"volume.{name}" in answer["error"]
    else:
        assert answer == {"updated": 1, "later": []}


def test_what_concerns_the_machine_waits_for_the_next_worker(make_place: MakePlace) -> None:
    place = make_place()
    worker = place.start().ready()
    answer = worker.update(place.changed(cache__capacity="2GiB", log__level="debug"))
    assert answer == {"updated": 1, "later": ["cache.capacity", "log.level"]}


def test_a_new_key_takes_over_and_a_wrong_one_does_not(
    make_place: MakePlace, web: WebIdentity
) -> None:
    place = _s3(make_place, web.server)
    admin, bucket = web.server.admin, _bucket(place)
    admin.put(bucket, "there", b"by somebody else")
    worker = place.start().ready()
    (place.root / "one").write_text("1")
    assert (place.root / "there").read_bytes() == b"by somebody else"
    wrong = "not-the-secret-of-this-key"
    answer = worker.update(place.changed(store__secret_access_key=wrong))
    assert answer["code"] == "PERMISSION_DENIED"
    assert "check the secret" in answer["error"]
    (place.root / "two").write_text("2")

    new = place.changed(**_keys(web))
    assert worker.update(new)["updated"] == 2
    (place.root / "three").write_text("3")
    assert admin.get(bucket, "three") == b"3"
    assert not files_with(wrong, place.root.parent / "cache")
    assert wrong not in place.log.read_text()

    # A successor has the new key and the cache of the old one.
    assert place.session is not None
    tenant = place.session["tenant"]
    worker.process.kill()
    worker.ended()
    place.use(new)
    second = place.start(place.session).ready()
    assert place.session["tenant"] == tenant
    assert (place.root / "there").read_bytes() == b"by somebody else"
    assert second.ask("status")["counters"]["cache_miss_bytes"] == 0
    (place.root / "four").write_text("4")
    assert admin.get(bucket, "four") == b"4"


def test_uploads_that_were_refused_are_tried_with_the_new_key(
    make_place: MakePlace, minio: S3Server
) -> None:
    place = _s3(make_place, minio, **{"volume.durability": "writeback"})
    first = place.start().ready()
    assert list(place.root.iterdir()) == []
    first.process.kill()
    first.ended()
    place.use(place.changed(store__secret_access_key="the-one-of-yesterday"))
    second = place.start(place.session).ready()
    (place.root / "file").write_text("text")
    wait_for(lambda: second.ask("status")["failing"], what="a refused upload")
    assert second.update(place.changed())["updated"] == 1
    wait_for(lambda: second.ask("status")["pending_uploads"] == 0, what="the upload")
    assert minio.admin.get(_bucket(place), "file") == b"text"


def test_a_file_that_is_open_goes_on_over_an_update(
    make_place: MakePlace, web: WebIdentity
) -> None:
    place = _s3(make_place, web.server)
    worker = place.start().ready()
    with subprocess.Popen(
        ["sh", "-c", 'exec >"$0"; echo one; read line; echo two', str(place.root / "file")],
        stdin=subprocess.PIPE,
    ) as writer:
        wait_for(lambda: (place.root / "file").exists(), what="the file")
        assert worker.update(place.changed(**_keys(web)))["updated"] == 1
        writer.communicate(b"\n")
        assert writer.returncode == 0
    assert web.server.admin.get(_bucket(place), "file") == b"one\ntwo\n"


def _keys(web: WebIdentity) -> dict[str, object]:
    keys = web.keys()
    return {
        "store__access_key_id": keys.access_key, "store__secret_access_key": keys.secret_key,
        "store__session_token": keys.session_token,
    }  # fmt: skip


def _s3(make_place: MakePlace, server: S3Server, **values: object) -> Place:
    return make_place({**s3_values(server), **values})


def _bucket(place: Place) -> str:
    return place.config.store.bucket
