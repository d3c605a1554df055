"""A volume whose identity is a token that somebody hands over, as the kubelet does."""

from __future__ import annotations

import pytest

from tests.integration.mount.volumes import files_with, processes_with
from tests.integration.worker.conftest import MakePlace
from tests.integration.worker.workers import Place
from tests.support.mounts import wait_for
from tests.support.oidc import CLAIM_AUDIENCE, WebIdentity, role_arn

SERVICE_ACCOUNT = "system:serviceaccount:shop:cart"


def _values(web: WebIdentity, token: str, role: str | None = None) -> dict[str, object]:
    values = {
        "store.url": f"s3://{web.server.create_bucket()}", "store.endpoint": web.server.endpoint,
        "store.sts_endpoint": web.server.endpoint, "store.web_identity_token": token,
    }  # fmt: skip
    return values if role is None else {**values, "store.role_arn": role}


def _stored(web: WebIdentity, place: Place, key: str) -> bytes:
    return web.server.admin.get(place.config.store.bucket, key)


def test_a_token_is_exchanged_for_a_role(make_place: MakePlace, web: WebIdentity) -> None:
    token = web.provider.token()
    place = make_place(_values(web, token, role_arn()))
    worker = place.start().ready()
    (place.root / "file").write_text("text")
    assert _stored(web, place, "file") == b"text"
    signature = token.rpartition(".")[2]
    assert processes_with(signature) == {}
    assert files_with(signature, place.root.parent / "cache", place.root.parent) == []
    assert signature not in str(worker.ask("status"))
    assert signature not in worker.ask("metrics")["text"]


def test_the_service_may_know_the_role_itself(make_place: MakePlace, web: WebIdentity) -> None:
    token = web.provider.token(audience=CLAIM_AUDIENCE, policy="readwrite")
    place = make_place(_values(web, token))
    place.start().ready()
    (place.root / "file").write_text("text")
    assert _stored(web, place, "file") == b"text"


def test_the_tenant_is_whom_the_token_is_about(make_place: MakePlace, web: WebIdentity) -> None:
    def tenant(subject: str, number: int) -> str:
        token = web.provider.token(subject, audience=CLAIM_AUDIENCE, policy="readwrite", jti=number)
        place = make_place({**values, "store.web_identity_token": token})
        place.start().ready()
        assert place.session is not None
        return str(place.session["tenant"])

    values = _values(web, "")
    first = tenant(SERVICE_ACCOUNT, 1)
    assert tenant(SERVICE_ACCOUNT, 2) == first
    assert tenant("system:serviceaccount:shop:other", 3) != first


@pytest.mark.parametrize(
    ("seconds", "audience", "words"),
    [
        (-30.0, "slayerfs-role", ["token ended", "a new one is needed"]),
        (60.0, "somebody-else", ["gave no credentials", "audience"]),
    ],
)
def test_a_token_that_is_refused_is_explained(
    make_place: MakePlace, web: WebIdentity, seconds: float, audience: str, words: list[str]
) -> None:
    token = web.provider.token(seconds=seconds, audience=audience)
    worker = make_place(_values(web, token, role_arn())).start()
    message = worker.receive()
    assert message is not None
    assert message["code"] == "PERMISSION_DENIED"
    for word in words:
        assert word in message["error"]
    assert token not in message["error"]
    worker.ended()


def test_an_ended_token_denies_access_until_an_update_brings_a_new_one(
    make_place: MakePlace, web: WebIdentity
) -> None:
    place = make_place({**_values(web, web.provider.token(), role_arn()),
                        "volume.durability": "writeback"})  # fmt: skip
    worker = place.start().ready()
    assert list(place.root.iterdir()) == []

    def shortened() -> bool:
        # Not what it is started with: that may take longer than the token lives.
        short = place.changed(store__web_identity_token=web.provider.token(seconds=15))
        return "updated" in worker.update(short)

    wait_for(shortened, 90, what="a token that is exchanged before it ends")

    def denied() -> bool:
        (place.root / "file").write_text("text")
        failing = worker.ask("status")["failing"]
        return bool(failing) and "token ended" in failing[0]["error"]

    wait_for(denied, 60, what="an upload with a token that has ended")
    store = worker.ask("status")["store"]
    assert not store["answers"]
    assert "a new one is needed" in store["last_error"]

    ended = place.changed(store__web_identity_token=web.provider.token(seconds=-1))
    answer = worker.update(ended)
    assert answer["code"] == "PERMISSION_DENIED"
    assert "token ended" in answer["error"]

    new = place.changed(store__web_identity_token=web.provider.token())
    assert "updated" in worker.update(new)
    wait_for(lambda: worker.ask("status")["pending_uploads"] == 0, what="the upload")
    assert _stored(web, place, "file") == b"text"
    assert worker.ask("status")["store"]["answers"]


def test_a_successor_serves_what_is_here_without_credentials_and_takes_new_ones(
    make_place: MakePlace, web: WebIdentity
) -> None:
    place = make_place(_values(web, web.provider.token(), role_arn()))
    first = place.start().ready()
    (place.root / "file").write_text("text")
    assert (place.root / "file").read_text() == "text"
    first.process.kill()
    first.ended()

    place.use(place.changed(store__web_identity_token=web.provider.token(seconds=-60)))
    second = place.start(place.session).ready()
    assert (place.root / "file").read_text() == "text"
    with pytest.raises(PermissionError):
        (place.root / "other").write_text("more")
    assert "token ended" in second.ask("status")["store"]["last_error"]
    new = place.changed(store__web_identity_token=web.provider.token())
    assert second.update(new)["updated"] == 1
    (place.root / "third").write_text("more")
    assert _stored(web, place, "third") == b"more"


def test_an_unmounted_volume_waits_for_new_credentials_with_its_uploads(
    make_place: MakePlace, web: WebIdentity
) -> None:
    place = make_place({**_values(web, web.provider.token(), role_arn()),
                        "volume.durability": "writeback"})  # fmt: skip
    first = place.start().ready()
    assert list(place.root.iterdir()) == []
    web.server.pause()
    try:
        (place.root / "file").write_text("text")
        first.process.kill()
        first.ended()
        place.unmount()
    finally:
        web.server.resume()
    place.use(place.changed(store__web_identity_token=web.provider.token(seconds=-60)))
    second = place.start({"unmounted": True}).ready()
    wait_for(lambda: second.ask("status")["failing"], what="a refused upload")
    new = place.changed(store__web_identity_token=web.provider.token())
    assert second.update(new)["updated"] == 1
    assert second.expect("ended") == {"ended": 0}
    assert _stored(web, place, "file") == b"text"
