"""Services that differ: no wrong bytes, no endless loop, and the error that it is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from email.utils import formatdate
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.errors import (
    AccessDenied,
    PreconditionFailed,
    StoreError,
    StoreIntegrityError,
    StoreUnsupported,
)
from csi_slayer.store.base import ABSENT, Condition
from csi_slayer.store.s3.credentials import Credentials
from csi_slayer.store.s3.keys import AccessKeys
from tests.unit.store.quirky import Asked, error, quirky
from tests.unit.store.scripted import answer

HEAD = answer(b"", "200 OK", 'ETag: "head"').replace(b"Length: 0", b"Length: 5")
DONE = b'<CompleteMultipartUploadResult><ETag>"done"</ETag></CompleteMultipartUploadResult>'
BIG = random.Random(3).randbytes((2 << 20) + 99)
BEGUN = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"


def runs(work: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(work)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(work(*args, **kwargs), 20))

    return run


@runs
async def test_a_listing_whose_token_is_repeated_ends() -> None:
    """Seen of Wasabi, RunPod and MEGA S4."""
    page = (
        "<ListBucketResult><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
    )
    named: list[str] = []
    async with quirky(lambda asked: answer(page.encode())) as store:
        assert (await store.list_page("", continues=named.append)).token == "t"
        with pytest.raises(StoreIntegrityError, match="token is repeated"):
            await store.list_page("", token="t", continues=named.append)
    assert named == ["t"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("PreconditionFailed", PreconditionFailed),
        ("AccessDenied", AccessDenied),
        ("EntityTooSmall", StoreError),
    ],
)
@runs
async def test_an_error_after_a_200_is_what_it_says(code: str, expected: type[Exception]) -> None:
    late = answer(f" \n \n<Error><Code>{code}</Code></Error>".encode())

    def respond(asked: Asked) -> bytes:
        if asked.kind == "HeadObject":
            return HEAD
        return answer(BEGUN) if asked.kind == "CreateMultipartUpload" else late

    async with quirky(respond) as store:
        with pytest.raises(StoreError) as caught:
            await store.copy("a", "b")
        assert type(caught.value) is expected
        upload = await store.create_multipart("a")
        with pytest.raises(StoreError) as caught:
            await store.complete_multipart("a", upload, [(1, '"e"')], condition=Condition('"x"'))
        assert type(caught.value) is expected


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeTooSkewed"])
@runs
async def test_what_a_new_session_or_a_clock_may_mend_after_a_200_is_tried_again(code: str) -> None:
    refusal = answer(f"<Error><Code>{code}</Code></Error>".encode())
    copied = b'<CopyObjectResult><ETag>"e"</ETag><LastModified>2026-11-24T10:40:00Z</LastModified>'
    answers = [refusal, answer(copied + b"</CopyObjectResult>")]

    def respond(asked: Asked) -> bytes:
        return HEAD if asked.kind == "HeadObject" else answers.pop(0)

    async with quirky(respond) as store:
        assert (await store.copy("a", "b")).etag == '"e"'
    async with quirky(lambda asked: HEAD if asked.kind == "HeadObject" else refusal) as store:
        with pytest.raises(StoreIntegrityError, match=code):
            await store.copy("a", "b")


@pytest.mark.parametrize("ours", [True, False])
@runs
async def test_an_object_of_parts_whose_etag_is_another_than_was_acknowledged(ours: bool) -> None:
    """So with Riak CS; the token of our write tells it from another's object."""
    token = ""

    def respond(asked: Asked) -> bytes:
        nonlocal token
        if asked.kind == "CreateMultipartUpload":
            token = asked.headers["x-amz-meta-slayerfs-write"]
            return answer(BEGUN)
        if asked.kind == "HeadObject":
            more = f"x-amz-meta-slayerfs-write: {token if ours else 'other'}\r\n\r\n"
            return HEAD.replace(b"\r\n\r\n", b"\r\n" + more.encode())
        return answer(DONE)

    async with quirky(respond) as store:
        upload = await store.create_multipart("a")
        if ours:
            assert (await store.complete_multipart("a", upload, [(1, '"e"')])).etag == '"head"'
        else:
            with pytest.raises(PreconditionFailed):
                await store.complete_multipart("a", upload, [(1, '"e"')])


@runs
async def test_a_bucket_with_object_lock_gets_checksums(tmp_path: Path) -> None:
    """AWS and B2 want one of each body, and say so; nobody else has to wait for it."""
    kept: list[bytes] = []
    refused = 0

    def respond(asked: Asked) -> bytes:
        nonlocal refused
        if asked.kind == "CreateMultipartUpload":
            return answer(BEGUN)
        given = asked.headers.get("content-md5")
        if given is None:
            refused += 1
            words = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object"
            return error("InvalidRequest", "400 Bad Request", words)
        assert "content-md5" in asked.headers["authorization"]
        if (
            given
            != base64.b64encode(hashlib.md5(asked.body, usedforsecurity=False).digest()).decode()
        ):
            return error("BadDigest", "400 Bad Request")
        kept.append(asked.body)
        return answer(b"", "200 OK", 'ETag: "etag"')

    (tmp_path / "file").write_bytes(BIG)
    with (tmp_path / "file").open("rb") as file:
        async with quirky(respond) as store:
            await store.put("empty", b"")
            await store.put("small", b"small")
            assert refused == 1
            await store.put_file("large", file.fileno(), len(BIG))
            upload = await store.create_multipart("parts")
            await store.upload_part("parts", upload, 1, file.fileno(), 7, len(BIG) - 7)
        async with quirky(respond) as store:
            await store.put_file("large", file.fileno(), len(BIG))
    assert kept == [b"", b"small", BIG, BIG[7:], BIG]
    assert refused == 2


@pytest.mark.parametrize("code", ["BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"])
@runs
async def test_a_body_that_was_damaged_on_its_way_is_sent_again(code: str) -> None:
    answers = [error(code, "400 Bad Request"), answer(b"", "200 OK", 'ETag: "etag"')]
    async with quirky(lambda asked: answers.pop(0)) as store:
        assert (await store.put("a", b"b")).etag == '"etag"'
    async with quirky(lambda asked: error(code, "400 Bad Request")) as store:
        with pytest.raises(StoreIntegrityError, match=code):
            await store.put("a", b"b")


@pytest.mark.parametrize("lacks", [b"Content-Length: 5\r\n", b'ETag: "head"\r\n'])
@runs
async def test_a_head_that_lacks_what_it_must_say_is_asked_for_again(lacks: bytes) -> None:
    """A write whose answer was lost failed for good if the look at what became of it was answered
    so; as did any other HEAD."""
    broken = HEAD.replace(lacks, b"")
    assert broken != HEAD
    written = answer(b"", "200 OK", 'ETag: "etag"')
    answers = [broken, HEAD]
    async with quirky(lambda asked: answers.pop(0)) as store:
        assert (await store.head("a")).etag == '"head"'
    answers = [error("InternalError", "500 No"), broken, error("NoSuchKey", "404 No"), written]
    async with quirky(lambda asked: answers.pop(0)) as store:
        assert (await store.put("a", b"b", condition=ABSENT)).etag == '"etag"'
    async with quirky(lambda asked: broken) as store:
        with pytest.raises(StoreIntegrityError, match="4 attempts"):
            await store.head("a")


@runs
async def test_a_clock_that_differs_is_not_why_all_is_refused() -> None:
    """HEAD gives no reason. Once the clock is followed, it was something else."""
    ahead = formatdate(time.time() + 3600, usegmt=True)
    stamps: list[str] = []

    def respond(asked: Asked) -> bytes:
        stamps.append(asked.headers["x-amz-date"])
        return answer(b"", "403 Forbidden", f"Date: {ahead}")

    async with quirky(respond) as store:
        for _ in range(2):
            with pytest.raises(AccessDenied, match="HTTP 403: the identity may not"):
                await store.head("a")
    assert len(stamps) == 3
    assert stamps[0] < stamps[1]


@runs
async def test_a_service_without_conditional_writes_is_named_as_that() -> None:
    """B2 refuses the header, GCS the upload in parts that has one."""

    def respond(asked: Asked) -> bytes:
        if asked.kind == "CreateMultipartUpload":
            return answer(BEGUN)
        if "if-none-match" in asked.headers:
            return error("NotImplemented", "501 Not Implemented")
        return error("NotImplemented", "400 Bad Request")

    async with quirky(respond) as store:
        with pytest.raises(StoreUnsupported, match="needs a service with conditional writes"):
            await store.put("a", b"b", condition=ABSENT)
        upload = await store.create_multipart("a")
        with pytest.raises(StoreUnsupported, match="needs a service with conditional writes"):
            await store.complete_multipart("a", upload, [(1, '"e"')], condition=ABSENT)
        with pytest.raises(StoreUnsupported, match=r"cannot do that \(NotImplemented: \)$"):
            await store.put("a", b"b")


@runs
async def test_a_gateway_that_knows_no_expect_gets_the_body_without(tmp_path: Path) -> None:
    """Squid 3.1 and lighttpd answer 417."""
    asked_for: list[str | None] = []

    def respond(asked: Asked) -> bytes:
        if asked.kind == "HeadObject":  # is it there already, before it is sent once more?
            return answer(b"", "404 Not Found")
        asked_for.append(asked.headers.get("expect"))
        if asked_for[-1] is not None:
            return answer(b"", "417 Expectation Failed", "Connection: close")
        assert asked.body == BIG
        return answer(b"", "200 OK", 'ETag: "etag"')

    (tmp_path / "file").write_bytes(BIG)
    with (tmp_path / "file").open("rb") as file:
        async with quirky(respond) as store:
            info = await store.put_file("a", file.fileno(), len(BIG), condition=ABSENT)
    assert info.etag == '"etag"'
    assert asked_for == ["100-continue", None]


@pytest.mark.parametrize(
    "refusal",
    [
        error("NotImplemented", "501 Not Implemented"),
        error("MethodNotAllowed", "405 Method Not Allowed"),
        answer(b""),
    ],
    ids=["gcs", "oss", "bos"],
)
@runs
async def test_a_service_that_deletes_no_batches_is_asked_for_each_key(refusal: bytes) -> None:
    asked_for: list[str] = []

    def respond(asked: Asked) -> bytes:
        asked_for.append(asked.kind)
        if asked.kind == "DeleteObjects":
            return refusal
        refused = asked_for.count("DeleteObject") == 2
        return error("AccessDenied", "403 Forbidden") if refused else answer(b"", "204 No Content")

    async with quirky(respond) as store:
        failed = await store.delete_many(["a", "b", "c"])
        assert [reason.partition(" ")[0] for reason in failed.values()] == ["DeleteObject"]
        assert await store.delete_many(["d"]) == {}
    assert asked_for == ["DeleteObjects"] + 4 * ["DeleteObject"]


@runs
async def test_what_a_batch_has_deleted_is_not_deleted_again() -> None:
    """Each deletion of a key leaves a marker where versions are kept, and what somebody has put
    there meanwhile is gone."""
    alone: list[str] = []

    def respond(asked: Asked) -> bytes:
        if asked.kind == "DeleteObjects":
            whole = b"first" not in asked.body
            return answer(b"<DeleteResult></DeleteResult>" if whole else b"")
        alone.append(asked.kind)
        return answer(b"", "204 No Content")

    async with quirky(respond) as store:
        keys = ["first", *[f"key-{number}" for number in range(2500)]]
        assert await store.delete_many(keys) == {}
    assert len(alone) == 1000


@runs
async def test_a_clock_that_is_set_while_the_servers_is_followed() -> None:
    """As when a machine wakes: ours is behind, then the network comes and goes, then it is set."""
    ahead, failures = 3600.0, [error("InternalError", "500 Internal Server Error")]
    skews = 0

    def respond(asked: Asked) -> bytes:
        nonlocal ahead, skews
        signed = datetime.fromisoformat(asked.headers["x-amz-date"]).timestamp()
        if abs(signed - time.time() - ahead) > 900:
            skews += 1
            date = formatdate(time.time() + ahead, usegmt=True)
            body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
            return answer(body, "403 Forbidden", f"Date: {date}")
        if failures:
            ahead = 0.0
            return failures.pop()
        return answer(b"<ListBucketResult></ListBucketResult>")

    async with quirky(respond) as store:
        await store.list_page("")
    assert skews == 2


@runs
async def test_after_a_suspension_the_clock_is_set_and_the_session_renewed() -> None:
    """Both at once, and after answers of a gateway that was in trouble."""
    ahead = 3600
    answers = [answer(b"<html></html>"), answer(b"<html></html>")]

    def respond(asked: Asked) -> bytes:
        if answers:
            return answers.pop()
        signed = datetime.fromisoformat(asked.headers["x-amz-date"])
        if signed.timestamp() < time.time() + ahead - 900:
            date = formatdate(time.time() + ahead, usegmt=True)
            body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
            return answer(body, "403 Forbidden", f"Date: {date}")
        if "KEY1" in asked.headers["authorization"]:
            return error("ExpiredToken", "400 Bad Request")
        return answer(b"<ListBucketResult></ListBucketResult>")

    async with quirky(respond) as store:
        now, source = 0.0, Session()
        credentials = Credentials(source, "us-east-1", clock=lambda: now)
        await credentials.current()
        await store._engine.use(credentials)
        now = 100.0
        await store.list_page("")
        assert source.loads == 2


class Session:
    """Gives a new key each time, which is to last for hours by our clock, which is behind."""

    identity = "session"
    loads = 0

    def load(self) -> AccessKeys:
        self.loads += 1
        return AccessKeys(f"KEY{self.loads}", "secret", "token", 4e9)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ExpiredToken", "400 Bad Request"),
        ("InvalidAccessKeyId", "403 Forbidden"),
        ("InvalidTokenId", "403 Forbidden"),
    ],
)
@runs
async def test_a_session_that_the_server_does_not_know_any_more_is_renewed(
    code: str, status: str
) -> None:
    good = b"KEY2"

    def respond(asked: Asked) -> bytes:
        if good.decode() in asked.headers["authorization"]:
            return answer(b"<ListBucketResult></ListBucketResult>")
        return error(code, status)

    async with quirky(respond) as store:
        now, source = 0.0, Session()
        credentials = Credentials(source, "us-east-1", clock=lambda: now)
        await credentials.current()
        await store._engine.use(credentials)
        now = 100.0
        await store.list_page("")
        assert source.loads == 2
        good, now = b"none", 200.0
        with pytest.raises(AccessDenied, match=code):
            await store.list_page("")
