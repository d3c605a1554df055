"""What is particular to S3: copies in parts, observers, identities, many keys."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import random
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config

from csi_slayer.errors import PreconditionFailed, StoreUnavailable
from csi_slayer.store.options import CredentialOptions
from csi_slayer.store.s3.answer import Answer
from csi_slayer.store.s3.jobs import Upload
from csi_slayer.store.s3.transfers import Lane
from tests.integration.store.conftest import Run
from tests.integration.store.recorder import Recorder
from tests.integration.store.sinks import MemorySink
from tests.integration.store.stores import open_s3, options_for
from tests.support.faultproxy import FaultProxy
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

BIG = random.Random(17).randbytes((11 << 20) + 99)
MOST = 1 << 20
FileOf = Callable[[bytes], int]


def test_objects_too_large_for_one_copy(
    run: Run[Any], s3_server: S3Server, bucket: str, file_of: FileOf
) -> None:
    """With the limits of a smaller S3."""

    async def body() -> None:
        store = await open_s3(f"s3://{bucket}", options_for(s3_server))
        store._largest, store._part = 5 << 20, 5 << 20
        s3_server.admin.client.put_object(
            Bucket=bucket,
            Key="source",
            Body=BIG,
            ContentType="text/x-test",
            Metadata={"mode": "1"},
        )
        source = await store.head("source")
        copied = await store.copy("source", "target", source_etag=source.etag)
        info = await store.head("target")
        assert (copied.size, info.size, info.etag) == (len(BIG), len(BIG), copied.etag)
        assert info.metadata == {"mode": "1"}
        sink = MemorySink()
        await store.fetch("target", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        assert sink.content == BIG
        head = s3_server.admin.client.head_object(Bucket=bucket, Key="target")
        assert head["ContentType"] == "text/x-test"
        with pytest.raises(PreconditionFailed):
            await store.copy("source", "target", source_etag='"other"')
        assert await store.list_multipart("target") == []
        await store.close()

    run(body())


def test_changing_metadata_keeps_that_of_others_and_the_content_type(
    run: Run[Any], s3_server: S3Server, bucket: str
) -> None:
    async def body() -> None:
        store = await open_s3(f"s3://{bucket}", options_for(s3_server))
        s3_server.admin.client.put_object(
            Bucket=bucket, Key="page", Body=b"<p>", ContentType="text/html",
            CacheControl="no-cache", Metadata={"title": "50%25 off", "mode": "600"},
        )  # fmt: skip
        await store.copy("page", "page", metadata={"mode": "644"})
        head = s3_server.admin.client.head_object(Bucket=bucket, Key="page")
        assert head["ContentType"] == "text/html"
        assert head["CacheControl"] == "no-cache"
        assert head["Metadata"] == {"title": "50%25 off", "mode": "644"}
        await store.copy("page", "page", metadata={"mode": "640", "text": "x" * 2000})
        head = s3_server.admin.client.head_object(Bucket=bucket, Key="page")
        assert head["Metadata"] == {"mode": "640", "text": "x" * 2000}, "there is no room for more"
        await store.close()

    run(body())


def test_headers_of_others_that_are_not_ascii_are_kept(
    run: Run[Any], s3_server: S3Server, bucket: str
) -> None:
    """Browsers and tools send names of files so: nothing could be stored of such an object any
    more, neither another mode nor another name."""
    sent = 'attachment; filename="à la carte.pdf"'.encode().decode("latin-1")
    signer = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name=s3_server.region,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )

    def ask(operation: str, key: str, body: bytes = b"", **headers: str) -> dict[str, str]:
        where = {"Bucket": bucket, "Key": key}
        url = urlsplit(signer.generate_presigned_url(operation, Params=where))
        connection = http.client.HTTPConnection(url.netloc, timeout=20)
        method = "PUT" if body else "GET"
        connection.request(method, f"{url.path}?{url.query}", body, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        assert response.status == 200
        return {name.lower(): value for name, value in response.getheaders()}

    ask("put_object", "f", b"menu", **{"Content-Disposition": sent})

    async def body() -> None:
        store = await open_s3(f"s3://{bucket}", options_for(s3_server))
        await store.copy("f", "f", metadata={"mode": "33188"})
        await store.copy("f", "g")
        await store.close()

    run(body())
    for key in ("f", "g"):
        assert ask("get_object", key)["content-disposition"] == sent


def test_every_request_is_reported(
    run: Run[Any], s3_server: S3Server, bucket: str, file_of: FileOf
) -> None:
    async def body() -> None:
        recorder = Recorder()
        store = await open_s3(f"s3://{bucket}", options_for(s3_server, observer=recorder))
        await store.put("key", b"12345")
        await store.get("key", length=3)
        info = await store.put_file("big", file_of(BIG), len(BIG))
        await store.fetch("big", offset=0, length=4096, if_match=info.etag, sink=MemorySink())
        with pytest.raises(Exception, match="no such object"):
            await store.head("absent")
        assert recorder.calls == [
            ("PutObject", 200, 5, 0),
            ("GetObject", 206, 0, 3),
            ("PutObject", 200, len(BIG), 0),
            ("GetObject", 206, 0, 4096),
            ("HeadObject", 404, 0, 0),
        ]
        assert recorder.failures == []
        await store.close()

    run(body())


def test_what_could_not_be_sent_is_not_reported_as_sent(
    run: Run[Any], s3_server: S3Server, bucket: str, file_of: FileOf
) -> None:
    async def body() -> None:
        recorder = Recorder()
        with FaultProxy(s3_server.endpoint) as proxy:
            options = options_for(
                s3_server, endpoint=proxy.endpoint, observer=recorder, retry_deadline=1.0
            )
            store = await open_s3(f"s3://{bucket}", options)
            proxy.go_away()
            with pytest.raises(StoreUnavailable):
                await store.put("key", b"12345")
            with pytest.raises(StoreUnavailable):
                await store.put_file("big", file_of(BIG), len(BIG))
            assert len(recorder.calls) >= 2
            assert {(status, sent) for _op, status, sent, _received in recorder.calls} == {
                (None, 0)
            }
            await store.close()

    run(body())


def test_identities_tell_tenants_apart(run: Run[Any], versitygw: S3Server) -> None:
    async def identity(url: str, **changes: Any) -> str:
        store = await open_s3(url, options_for(versitygw, **changes))
        await store.close()
        return store.identity

    async def body() -> None:
        first = await identity("s3://bucket/prefix")
        assert first == await identity("s3://bucket/prefix/")
        others = [
            await identity("s3://bucket"),
            await identity("s3://other/prefix"),
            await identity("s3://bucket/prefix", endpoint="http://127.0.0.1:1"),
            await identity("s3://bucket/prefix", credentials=CredentialOptions("other", "x")),
            await identity("s3://bucket/prefix", anonymous=True),
        ]
        assert len({first, *others}) == 6
        for text in (first, *others):
            assert versitygw.access_key not in text
            assert versitygw.secret_key not in text

    run(body())


def test_objects_of_others_can_be_read(run: Run[Any], s3_server: S3Server, bucket: str) -> None:
    """Written by another program, with what it puts into keys and metadata."""
    s3_server.admin.put(bucket, "p/a b+c/ü", b"content", {"plain": "100% sure"})

    async def body() -> None:
        store = await open_s3(f"s3://{bucket}/p", options_for(s3_server))
        assert (await store.list_page("")).prefixes == ["a b+c/"]
        info, data = await store.get("a b+c/ü")
        assert (data, info.metadata) == (b"content", {"plain": "100% sure"})
        await store.close()

    run(body())


def test_the_page_that_follows_is_named_before_a_page_is_made(
    run: Run[Any], s3_server: S3Server, bucket: str
) -> None:
    for number in range(5):
        s3_server.admin.put(bucket, f"p/{number}")

    async def body() -> None:
        named: list[str] = []
        store = await open_s3(f"s3://{bucket}/p", options_for(s3_server))
        token = None
        for number in range(3):
            page = await store.list_page("", token=token, limit=2, continues=named.append)
            assert len(page.objects) == (1 if number == 2 else 2)
            assert named[number:] == ([] if page.token is None else [page.token])
            token = page.token
        await store.close()

    run(body())


def test_the_marker_of_the_root_is_not_listed(
    run: Run[Any], s3_server: S3Server, bucket: str
) -> None:
    s3_server.admin.put(bucket, "p/")
    s3_server.admin.put(bucket, "p/key")
    s3_server.admin.put(bucket, "pq")

    async def body() -> None:
        store = await open_s3(f"s3://{bucket}/p", options_for(s3_server))
        assert [item.key for item in (await store.list_page("")).objects] == ["key"]
        await store.close()

    run(body())


def test_what_is_fetched_waits_for_nothing_that_is_sent(
    run: Run[Any],
    s3_server: S3Server,
    bucket: str,
    file_of: FileOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is written to may be read only after the write, and that may wait for a fetch."""
    go_on = threading.Event()
    send = Upload.run

    def waiting(upload: Upload, lane: Lane, head: bytes) -> Answer:
        assert go_on.wait(20)
        return send(upload, lane, head)

    monkeypatch.setattr(Upload, "run", waiting)

    async def body() -> None:
        options = dataclasses.replace(options_for(s3_server), transfer_threads=1)
        store = await open_s3(f"s3://{bucket}", options)
        there = await store.put("there", BIG[:MOST])
        task = asyncio.ensure_future(store.put_file("key", file_of(BIG), len(BIG)))
        sink = MemorySink()
        async with asyncio.timeout(10):
            await store.fetch("there", offset=0, length=MOST, if_match=there.etag, sink=sink)
        assert sink.content == BIG[:MOST] and not task.done()
        go_on.set()
        await task
        await store.close()

    run(body())
