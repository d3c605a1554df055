"""A cancelled transfer ends soon, and nothing of it goes on afterwards."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from csi_slayer.errors import CacheFull, ObjectNotFound, StoreUnavailable
from csi_slayer.store.base import ABSENT, ObjectStore
from csi_slayer.store.observe import GIVEN_UP
from tests.integration.store.conftest import Run
from tests.integration.store.proxies import ResettableProxy
from tests.integration.store.recorder import Recorder
from tests.integration.store.sinks import MemorySink
from tests.integration.store.stores import open_store, options_for
from tests.support.faults import Blackhole, Delay, LoseAnswer
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

BIG = random.Random(13).randbytes(8 << 20)
FileOf = Callable[[bytes], int]


class SlowSink(MemorySink):
    """Stops in its second piece until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def write(self, offset: int, data: memoryview) -> None:
        super().write(offset, data)
        if len(self.sizes) == 2:
            self.inside.set()
            assert self.go_on.wait(20)


def test_a_cancelled_fetch_lets_go_of_the_sink(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        info = await store.put("big", BIG)
        sink = SlowSink()
        task = asyncio.ensure_future(
            store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        )
        await asyncio.to_thread(sink.inside.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.1)
        assert not done  # the thread is still in the sink
        sink.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(sink.sizes) == 2
        whole = MemorySink()
        await store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=whole)
        assert whole.content == BIG

    run(body())


def test_closing_ends_what_is_under_way(
    run: Run[Any], store: ObjectStore, request: pytest.FixtureRequest
) -> None:
    async def body() -> None:
        info = await store.put("big", BIG)
        sink = SlowSink()
        task = asyncio.ensure_future(
            store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        )
        await asyncio.to_thread(sink.inside.wait, 20)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        sink.go_on.set()
        # The loop is busy: the thread must not need it to learn that it is to end.
        time.sleep(0.1)  # noqa: ASYNC251
        with pytest.raises(StoreUnavailable, match="the store is closed"):
            await task
        await closing
        with pytest.raises(StoreUnavailable, match="the store is closed"):
            await store.head("big")

    run(body())


class FullSink(MemorySink):
    """The cache's, which has no room."""

    def write(self, offset: int, data: memoryview) -> None:
        raise CacheFull("full")


def test_a_sink_without_room_is_no_failure_of_the_store(run: Run[Any], versitygw: S3Server) -> None:
    bucket = versitygw.create_bucket()
    told = Recorder()
    store = run(open_store(f"s3://{bucket}", options_for(versitygw, observer=told)))

    async def body() -> None:
        info = await store.put("big", BIG)
        with pytest.raises(CacheFull):
            await store.fetch("big", offset=0, length=len(BIG), if_match=info.etag, sink=FullSink())
        # Alerts count what had no answer.
        assert told.calls[-1][:2] == ("GetObject", GIVEN_UP)
        await store.delete("big")

    run(body())
    run(store.close())
    versitygw.admin.delete_bucket(bucket)


@pytest.mark.parametrize("kind", ["GetObject", "PutObject", "UploadPart"])
def test_a_transfer_that_waits_for_the_server_is_woken(
    run: Run[Any], versitygw: S3Server, file_of: FileOf, kind: str
) -> None:
    bucket = versitygw.create_bucket()
    with ResettableProxy(versitygw.endpoint) as proxy:
        told = Recorder()
        options = options_for(versitygw, endpoint=proxy.endpoint, observer=told)
        store = run(open_store(f"s3://{bucket}", options))

        async def body() -> None:
            fd = file_of(BIG)
            info = await store.put("big", BIG)
            upload = await store.create_multipart("multi")
            proxy.reset_counts()
            proxy.inject(Blackhole(), kind=kind)
            work = {
                "GetObject": lambda: store.fetch(
                    "big", offset=0, length=len(BIG), if_match=info.etag, sink=MemorySink()
                ),
                "PutObject": lambda: store.put_file("other", fd, len(BIG), condition=ABSENT),
                "UploadPart": lambda: store.upload_part("multi", upload, 1, fd, 0, len(BIG)),
            }[kind]
            task = asyncio.ensure_future(work())
            await asyncio.to_thread(proxy.wait_for, 1, kind)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Not that the store gave no answer: alerts count that.
            assert told.calls[-1][:2] == (kind, GIVEN_UP)
            proxy.heal()
            await work()
            await store.abort_multipart("multi", upload)

        run(body())
        run(store.close())
    versitygw.admin.delete_bucket(bucket)


def test_a_cancelled_small_request_gives_its_place_back(run: Run[Any], versitygw: S3Server) -> None:
    bucket = versitygw.create_bucket()
    with ResettableProxy(versitygw.endpoint) as proxy:
        told = Recorder()
        options = options_for(versitygw, endpoint=proxy.endpoint, max_connections=2, observer=told)
        store = run(open_store(f"s3://{bucket}", options))

        async def body() -> None:
            rule = proxy.inject(Delay(30), kind="HeadObject")
            tasks = [asyncio.ensure_future(store.head("key")) for _ in range(6)]
            await asyncio.to_thread(proxy.wait_for, 2, "HeadObject")
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in tasks)
            assert {call[:2] for call in told.calls} == {("HeadObject", GIVEN_UP)}
            proxy.remove(rule)
            answers = await asyncio.gather(
                *[store.head("key") for _ in range(6)], return_exceptions=True
            )
            assert all(isinstance(answer, ObjectNotFound) for answer in answers)

        run(body())
        run(store.close())
    versitygw.admin.delete_bucket(bucket)


def test_a_cancelled_conditional_write_is_not_in_its_own_way(
    run: Run[Any], versitygw: S3Server
) -> None:
    bucket = versitygw.create_bucket()
    with ResettableProxy(versitygw.endpoint) as proxy:
        store = run(open_store(f"s3://{bucket}", options_for(versitygw, endpoint=proxy.endpoint)))

        async def body() -> None:
            proxy.inject(LoseAnswer(), kind="PutObject", times=1)
            proxy.inject(Blackhole(), kind="HeadObject")
            task = asyncio.ensure_future(store.put("key", b"1", condition=ABSENT))
            await asyncio.to_thread(proxy.wait_for, 1, "HeadObject")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
            proxy.heal()
            await store.put("key", b"2", condition=ABSENT)
            assert (await store.get("key"))[1] == b"2"

        run(body())
        run(store.close())
    versitygw.admin.delete_bucket(bucket)
