"""A bad network and bad answers: repeated, or an error in bounded time; never wrong bytes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from csi_slayer.errors import (
    PreconditionFailed,
    StoreError,
    StoreIntegrityError,
    StoreUnavailable,
)
from csi_slayer.store.base import ABSENT, ObjectStore
from csi_slayer.store.write_token import WRITE_TOKEN
from tests.integration.store.conftest import Run
from tests.integration.store.proxies import ResettableProxy
from tests.integration.store.sinks import MemorySink
from tests.integration.store.stores import open_store, options_for
from tests.support.faults import (
    Blackhole,
    Cut,
    CutUpload,
    Fault,
    Header,
    LoseAnswer,
    Status,
    Truncate,
    WrongLength,
)
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

BIG = random.Random(11).randbytes((3 << 20) + 4321)
FileOf = Callable[[bytes], int]


@dataclass
class Setup:
    """Stores behind a proxy: one that repeats for long, one that gives up soon, one that soon
    takes a silent server for away; and one that goes straight to the server."""

    store: ObjectStore
    impatient: ObjectStore
    hasty: ObjectStore
    direct: ObjectStore
    proxy: ResettableProxy


@pytest.fixture
def setup(run: Run[Any], s3_server: S3Server, bucket: str) -> Iterator[Setup]:
    with ResettableProxy(s3_server.endpoint) as proxy:
        # But for the hasty one, longer than a busy machine's server may be silent.
        through = {"endpoint": proxy.endpoint, "request_timeout": 10.0}
        stores = [
            run(open_store(f"s3://{bucket}/p", options_for(s3_server, **changes)))
            for changes in (
                {**through, "retry_deadline": 10.0},
                {**through, "retry_deadline": 1.0},
                {**through, "retry_deadline": 30.0, "request_timeout": 1.0},
                {},
            )
        ]
        yield Setup(*stores, proxy)
        for store in stores:
            run(store.close())


PASSING = [
    Status(500, "InternalError"),
    Status(503, "SlowDown"),
    Status(429, "TooManyRequests"),
    Status(400, "RequestTimeout"),
    Cut(0),
    LoseAnswer(),
    pytest.param(Blackhole(), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("fault", PASSING, ids=repr)
def test_every_call_survives_a_passing_fault(
    setup: Setup, run: Run[Any], file_of: FileOf, fault: Fault
) -> None:
    async def body() -> None:
        store, proxy = setup.hasty, setup.proxy
        fd = file_of(BIG)

        def once(kind: str) -> None:
            proxy.inject(fault, kind=kind, times=1)

        once("PutObject")
        small = await store.put("small", b"small", condition=ABSENT)
        once("HeadObject")
        assert (await store.head("small")).etag == small.etag
        once("GetObject")
        assert (await store.get("small"))[1] == b"small"
        once("PutObject")
        big = await store.put_file("big", fd, len(BIG), condition=ABSENT)
        once("GetObject")
        sink = MemorySink()
        await store.fetch("big", offset=0, length=len(BIG), if_match=big.etag, sink=sink)
        assert sink.content == BIG
        once("ListObjectsV2")
        assert len((await store.list_page("")).objects) == 2
        once("CopyObject")
        await store.copy("small", "copy")
        once("CreateMultipartUpload")
        upload = await store.create_multipart("multi")
        once("UploadPart")
        part = await store.upload_part("multi", upload, 1, fd, 0, len(BIG))
        once("CompleteMultipartUpload")
        done = await store.complete_multipart("multi", upload, [(1, part)], condition=ABSENT)
        assert (await setup.direct.head("multi")).etag == done.etag
        once("DeleteObject")
        await store.delete("copy")
        once("DeleteObjects")
        assert await store.delete_many(["small", "big"]) == {}

    run(body())


@pytest.mark.parametrize("fault", [Cut(1_000_000), Truncate(1_000_000), WrongLength(-5)], ids=repr)
def test_a_download_goes_on_where_it_was_cut(setup: Setup, run: Run[Any], fault: Fault) -> None:
    async def body() -> None:
        info = await setup.direct.put("big", BIG)
        setup.proxy.inject(fault, kind="GetObject", times=2)
        sink = MemorySink()
        await setup.store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        assert sink.content == BIG
        if isinstance(fault, Truncate):  # a reset also loses what was not yet read
            answered = sum(seen.answer_bytes for seen in setup.proxy.seen("GetObject"))
            assert answered < len(BIG) + 2 * sink.piece + (64 << 10)

    run(body())


def test_a_download_that_never_gets_on_ends(setup: Setup, run: Run[Any]) -> None:
    async def body() -> None:
        info = await setup.direct.put("big", BIG)
        setup.proxy.inject(Cut(1000), kind="GetObject")
        sink = MemorySink()
        with pytest.raises(StoreUnavailable, match="cut within the answer"):
            await setup.impatient.fetch(
                "big", offset=0, length=len(BIG), if_match=info.etag, sink=sink
            )
        assert not sink.content

    run(body())


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Header("content-range", "bytes 1-3149950/3149951"), StoreIntegrityError),
        (Header("content-range", "bytes 0-10/9999999"), StoreIntegrityError),
        (Header("content-range", "nonsense"), StoreIntegrityError),
        (Header("content-range", None), StoreIntegrityError),
        (Header("etag", '"other"'), PreconditionFailed),
        (Header("etag", None), StoreError),
        (WrongLength(7), StoreIntegrityError),
        (WrongLength(-7), StoreIntegrityError),
    ],
    ids=repr,
)
def test_wrong_answers_are_never_believed(
    setup: Setup, run: Run[Any], fault: Fault, error: type[StoreError]
) -> None:
    async def body() -> None:
        info = await setup.direct.put("big", BIG)
        setup.proxy.inject(fault, kind="GetObject")
        sink = MemorySink()
        with pytest.raises(error):
            await setup.store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        assert not sink.content
        with pytest.raises(error):
            await setup.store.get("big", offset=0, length=1000, if_match=info.etag)
        setup.proxy.heal()
        _, data = await setup.store.get("big", offset=5, length=1000, if_match=info.etag)
        assert data == BIG[5:1005]

    run(body())


def test_a_truncated_answer_to_a_small_request_is_repeated(setup: Setup, run: Run[Any]) -> None:
    async def body() -> None:
        await setup.direct.put("key", b"0123456789" * 100)
        setup.proxy.inject(Truncate(10), kind="GetObject", times=2)
        assert (await setup.store.get("key"))[1] == b"0123456789" * 100
        setup.proxy.inject(Truncate(40), kind="ListObjectsV2", times=1)
        assert len((await setup.store.list_page("")).objects) == 1

    run(body())


@pytest.mark.parametrize("length", [4_000, 900_000, 3 << 20])
@pytest.mark.parametrize("delta", [-1, 1, 100_000])
def test_a_body_of_another_length_is_asked_for_again(
    setup: Setup, run: Run[Any], length: int, delta: int
) -> None:
    async def body() -> None:
        info = await setup.direct.put("key", BIG[:length])
        for times in (1, 3):
            setup.proxy.inject(WrongLength(delta), kind="GetObject", times=times)
            _, data = await setup.store.get("key", length=length, if_match=info.etag)
            assert data == BIG[:length]
        setup.proxy.inject(WrongLength(1 << 24), kind="ListObjectsV2", times=1)
        assert len((await setup.store.list_page("")).objects) == 1

    run(body())


def test_an_upload_that_was_cut_is_no_object(setup: Setup, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        fd = file_of(BIG)
        setup.proxy.inject(CutUpload(100_000), kind="PutObject")
        with pytest.raises(StoreUnavailable):
            await setup.impatient.put_file("big", fd, len(BIG), condition=ABSENT)
        assert (await setup.direct.list_page("")).objects == []
        setup.proxy.heal()
        setup.proxy.inject(CutUpload(100_000), kind="PutObject", times=2)
        info = await setup.store.put_file("big", fd, len(BIG), condition=ABSENT)
        assert (await setup.direct.head("big")).etag == info.etag

    run(body())


def test_a_lost_answer_is_told_from_a_lost_race(
    setup: Setup, run: Run[Any], file_of: FileOf
) -> None:
    """Equal bytes of somebody else do not count as ours."""

    async def body() -> None:
        setup.proxy.inject(LoseAnswer(), kind="PutObject", times=1)
        mine = await setup.store.put("mine", b"", condition=ABSENT)
        assert (await setup.direct.head("mine")).etag == mine.etag
        await setup.direct.put("theirs", b"", condition=ABSENT)
        setup.proxy.inject(Status(500), kind="PutObject", times=1)
        with pytest.raises(PreconditionFailed):
            await setup.store.put("theirs", b"", condition=ABSENT)
        fd = file_of(BIG)
        theirs = await setup.direct.put("multi", b"theirs")
        upload = await setup.store.create_multipart("multi")
        part = await setup.store.upload_part("multi", upload, 1, fd, 0, len(BIG))
        setup.proxy.inject(Status(500), kind="CompleteMultipartUpload", times=1)
        with pytest.raises(PreconditionFailed):
            await setup.store.complete_multipart("multi", upload, [(1, part)], condition=ABSENT)
        assert (await setup.direct.head("multi")).etag == theirs.etag
        await setup.store.abort_multipart("multi", upload)

    run(body())


def test_an_upload_whose_work_another_one_had_done_is_not_left(
    setup: Setup, run: Run[Any], file_of: FileOf
) -> None:
    """A process was killed while the store assembled its upload, and its successor sent the same
    once more."""

    async def body() -> None:
        fd = file_of(BIG)
        uploads = []
        for store in (setup.direct, setup.store):
            upload = await store.create_multipart("multi", metadata={WRITE_TOKEN: "token"})
            part = await store.upload_part("multi", upload, 1, fd, 0, len(BIG))
            uploads.append((store, upload, part))
        etags = set()
        for store, upload, part in uploads:
            done = await store.complete_multipart("multi", upload, [(1, part)], condition=ABSENT)
            etags.add(done.etag)
        assert len(etags) == 1
        assert not await setup.direct.list_multipart("")

    run(body())


def test_a_write_reported_as_failed_is_not_in_the_way_later(setup: Setup, run: Run[Any]) -> None:
    async def body() -> None:
        rule = setup.proxy.inject(LoseAnswer(), kind="PutObject", times=1)
        setup.proxy.inject(Status(503), kind="HeadObject")
        with pytest.raises(StoreUnavailable):
            await setup.impatient.put("key", b"first", condition=ABSENT)
        assert rule.hits == 1
        assert (await setup.direct.get("key"))[1] == b"first"
        setup.proxy.heal()
        info = await setup.impatient.put("key", b"second", condition=ABSENT)
        assert (await setup.direct.get("key"))[1] == b"second"
        with pytest.raises(PreconditionFailed):
            await setup.impatient.put("key", b"third", condition=ABSENT)
        assert (await setup.direct.head("key")).etag == info.etag

    run(body())


def test_a_server_that_goes_away_and_comes_back(setup: Setup, run: Run[Any]) -> None:
    async def body() -> None:
        await setup.store.put("key", b"content")
        setup.proxy.go_away()
        with pytest.raises(StoreUnavailable, match="connection refused"):
            await setup.impatient.head("key")
        reading = asyncio.ensure_future(setup.store.get("key"))
        await asyncio.sleep(0.2)
        setup.proxy.come_back()
        assert (await reading)[1] == b"content"

    run(body())


def test_idle_connections_that_were_closed_are_replaced(
    setup: Setup, run: Run[Any], file_of: FileOf
) -> None:
    async def body() -> None:
        fd = file_of(BIG)
        for _ in range(3):
            info = await setup.store.put_file("big", fd, len(BIG))
            sink = MemorySink()
            await setup.store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
            await setup.store.head("big")
            setup.proxy.drop_connections()

    run(body())
