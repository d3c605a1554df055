"""What every store must do, on a directory and on real S3 servers."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from csi_slayer.errors import InvalidRange, ObjectNotFound, PreconditionFailed, StoreError
from csi_slayer.store.base import ABSENT, Condition, ObjectStore
from csi_slayer.store.local.store import LocalStore
from csi_slayer.store.write_token import WRITE_TOKEN
from tests.integration.store.conftest import Run
from tests.integration.store.sinks import MemorySink

pytestmark = pytest.mark.integration

FileOf = Callable[[bytes], int]

BIG = random.Random(7).randbytes((6 << 20) + 12_345)


async def _all(store: ObjectStore, prefix: str = "", **options: Any) -> tuple[list[str], list[str]]:
    keys: list[str] = []
    prefixes: list[str] = []
    token = None
    while True:
        page = await store.list_page(prefix, token=token, **options)
        keys += [item.key for item in page.objects]
        prefixes += page.prefixes
        token = page.token
        if token is None:
            return keys, prefixes


def test_check_passes(store: ObjectStore, run: Run[Any]) -> None:
    run(store.check())


def test_put_head_get(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        put = await store.put("dir/file", b"hello world", metadata={"Mode": "0644"})
        assert (put.key, put.size) == ("dir/file", 11)
        info = await store.head("dir/file")
        assert (info.key, info.size, info.etag) == ("dir/file", 11, put.etag)
        assert info.metadata == {"mode": "0644"}
        assert abs(info.mtime_ns - put.mtime_ns) < 5 * 10**9
        for arguments, expected in [
            ({}, b"hello world"),
            ({"offset": 6}, b"world"),
            ({"offset": 6, "length": 2}, b"wo"),
            ({"offset": 6, "length": 200}, b"world"),
            ({"length": 0}, b""),
            ({"if_match": put.etag}, b"hello world"),
        ]:
            got, data = await store.get("dir/file", **arguments)
            assert data == expected
            assert (got.size, got.etag) == (11, put.etag)

    run(body())


def test_bodies_may_be_views(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        for content in (BIG[:100], BIG):
            await store.put("view", memoryview(bytearray(b"--" + content))[2:])
            assert (await store.get("view"))[1] == content

    run(body())


def test_empty_objects(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        await store.put("empty", b"")
        await store.put_file("empty-file", file_of(b""), 0)
        for key in ("empty", "empty-file"):
            assert (await store.head(key)).size == 0
            info, data = await store.get(key)
            assert (info.size, data) == (0, b"")
            await store.fetch(key, offset=0, length=0, if_match=info.etag, sink=MemorySink())

    run(body())


def test_absent_objects(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        for call in (
            store.head("nothing"),
            store.get("nothing"),
            store.get("no/thing", offset=1, length=2),
            store.copy("nothing", "target"),
            store.fetch("nothing", offset=0, length=1, if_match='"x"', sink=MemorySink()),
        ):
            with pytest.raises((ObjectNotFound, PreconditionFailed)):
                await call
        await store.delete("nothing")
        assert await store.delete_many(["nothing", "no/thing"]) == {}

    run(body())


def test_ranges_outside_the_object(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        await store.put("key", b"12345")
        for offset in (5, 6):
            with pytest.raises(InvalidRange):
                await store.get("key", offset=offset, length=1)

    run(body())


def test_reading_another_version_fails(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        old = await store.put("key", b"old")
        new = await store.put("key", b"new")
        assert old.etag != new.etag
        sink = MemorySink()
        for call in (
            store.get("key", if_match=old.etag),
            store.get("key", offset=1, length=1, if_match=old.etag),
            store.get("key", length=0, if_match=old.etag),
            store.fetch("key", offset=0, length=3, if_match=old.etag, sink=sink),
            store.copy("key", "copy", source_etag=old.etag),
        ):
            with pytest.raises(PreconditionFailed):
                await call
        assert not sink.content

    run(body())


def test_conditions_of_writes(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        first = await store.put("key", b"1", condition=ABSENT)
        with pytest.raises(PreconditionFailed):
            await store.put("key", b"2", condition=ABSENT)
        second = await store.put("key", b"22", condition=Condition(if_match=first.etag))
        with pytest.raises(PreconditionFailed):
            await store.put("key", b"333", condition=Condition(if_match=first.etag))
        with pytest.raises(PreconditionFailed):
            await store.put_file("key", file_of(BIG), len(BIG), condition=ABSENT)
        with pytest.raises(PreconditionFailed):
            await store.put("absent", b"", condition=Condition(if_match=first.etag))
        assert (await store.head("key")).etag == second.etag
        assert (await store.get("key"))[1] == b"22"
        with pytest.raises(ObjectNotFound):
            await store.head("absent")

    run(body())


def test_a_journalled_write_is_done_once(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        token = {WRITE_TOKEN: "journalled-1", "mode": "1"}
        first = await store.put("key", b"1", condition=ABSENT, metadata=token)
        again = await store.put("key", b"1", condition=ABSENT, metadata=token)
        assert again.etag == first.etag
        assert (await store.head("key")).metadata == {"mode": "1"}
        with pytest.raises(PreconditionFailed):
            await store.put("key", b"1", condition=ABSENT, metadata={WRITE_TOKEN: "journalled-2"})

    run(body())


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "ünïcödé 日本",
        "100%",
        "%41",
        " both ends ",
        "two  spaces",
        'a,b;c="d"',
        "",
        "a\tb\n",
    ],
)
def test_metadata_values_survive(store: ObjectStore, run: Run[Any], value: str) -> None:
    async def body() -> None:
        await store.put("key", b"x", metadata={"name": value})
        assert (await store.head("key")).metadata == {"name": value}
        assert (await store.get("key"))[0].metadata == {"name": value}

    run(body())


def test_files_are_sent_and_fetched(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        for size in (1, 4096, 1 << 20, (1 << 20) + 1, len(BIG)):
            info = await store.put_file("file", file_of(BIG), size, condition=Condition())
            assert info.size == size
            sink = MemorySink()
            await store.fetch("file", offset=0, length=size, if_match=info.etag, sink=sink)
            assert sink.content == BIG[:size]
        offset, length = 3 * sink.piece, 2 * sink.piece + 17
        sink = MemorySink(offset)
        await store.fetch("file", offset=offset, length=length, if_match=info.etag, sink=sink)
        assert sink.content == BIG[offset : offset + length]
        assert sink.sizes == [sink.piece, sink.piece, 17]
        unaligned = MemorySink(1000)
        await store.fetch("file", offset=1000, length=300_000, if_match=info.etag, sink=unaligned)
        assert unaligned.content == BIG[1000:301_000]

    run(body())


def test_a_file_that_is_too_short_is_no_object(
    store: ObjectStore, run: Run[Any], file_of: FileOf
) -> None:
    async def body() -> None:
        for size in (10, 2 << 20):
            with pytest.raises(StoreError, match="shorter"):
                await store.put_file("short", file_of(BIG[: size - 1]), size)
        with pytest.raises(ObjectNotFound):
            await store.head("short")

    run(body())


def test_an_error_of_the_sink_ends_the_fetch(
    store: ObjectStore, run: Run[Any], file_of: FileOf
) -> None:
    class Broken(MemorySink):
        def write(self, offset: int, data: memoryview) -> None:
            super().write(offset, data)
            if len(self.sizes) == 2:
                raise ZeroDivisionError

    async def body() -> None:
        info = await store.put_file("file", file_of(BIG), len(BIG))
        sink = Broken()
        with pytest.raises(ZeroDivisionError):
            await store.fetch("file", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        assert len(sink.sizes) == 2
        whole = MemorySink()
        await store.fetch("file", offset=0, length=len(BIG), if_match=info.etag, sink=whole)
        assert whole.content == BIG

    run(body())


def test_multipart(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        fd = file_of(BIG)
        source = await store.put_file("source", fd, len(BIG))
        cut = 5 << 20
        upload = await store.create_multipart("multi", metadata={"mode": "ü"})
        assert [(u.key, u.upload_id) for u in await store.list_multipart("multi")] == [
            ("multi", upload)
        ]
        second = await store.upload_part("multi", upload, 2, fd, cut, len(BIG) - cut)
        first = await store.upload_part_copy(
            "multi", upload, 1, source="source", source_etag=source.etag, offset=0, length=cut
        )
        parts = [(1, first), (2, second)]
        with pytest.raises(ObjectNotFound):
            await store.head("multi")
        done = await store.complete_multipart("multi", upload, parts, condition=ABSENT)
        assert done.size == len(BIG)
        info = await store.head("multi")
        assert (info.size, info.etag, info.metadata) == (len(BIG), done.etag, {"mode": "ü"})
        sink = MemorySink()
        await store.fetch("multi", offset=0, length=len(BIG), if_match=info.etag, sink=sink)
        assert sink.content == BIG
        again = await store.complete_multipart("multi", upload, parts, condition=ABSENT)
        assert again.etag == done.etag
        assert await store.list_multipart("multi") == []

    run(body())


def test_multipart_conditions(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        fd = file_of(BIG)
        there = await store.put("key", b"theirs")

        async def attempt(condition: Condition) -> None:
            upload = await store.create_multipart("key")
            part = await store.upload_part("key", upload, 1, fd, 0, len(BIG))
            try:
                await store.complete_multipart("key", upload, [(1, part)], condition=condition)
            finally:
                await store.abort_multipart("key", upload)

        with pytest.raises(PreconditionFailed):
            await attempt(ABSENT)
        with pytest.raises(PreconditionFailed):
            await attempt(Condition(if_match='"0123456789abcdef0123456789abcdef"'))
        assert (await store.get("key"))[1] == b"theirs"
        await attempt(Condition(if_match=there.etag))
        assert (await store.head("key")).size == len(BIG)
        assert await store.list_multipart("key") == []

    run(body())


def test_multipart_parts_of_another_version_or_upload(
    store: ObjectStore, run: Run[Any], file_of: FileOf
) -> None:
    async def body() -> None:
        fd = file_of(BIG)
        upload = await store.create_multipart("key")
        await store.put("source", b"x" * 10)
        with pytest.raises(PreconditionFailed):
            await store.upload_part_copy(
                "key", upload, 1, source="source", source_etag='"old"', offset=0, length=10
            )
        part = await store.upload_part("key", upload, 1, fd, 0, 1000)
        newer = await store.upload_part("key", upload, 1, fd, 1000, 1000)
        assert newer != part
        with pytest.raises(StoreError):
            await store.complete_multipart("key", upload, [(1, part)])
        await store.complete_multipart("key", upload, [(1, newer)])
        assert (await store.get("key"))[1] == BIG[1000:2000]

    run(body())


def test_an_aborted_upload_is_gone(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        await store.put("key", b"kept")
        upload = await store.create_multipart("key")
        part = await store.upload_part("key", upload, 1, file_of(BIG), 0, 1000)
        await store.abort_multipart("key", upload)
        await store.abort_multipart("key", upload)
        with pytest.raises((ObjectNotFound, PreconditionFailed)):
            await store.complete_multipart("key", upload, [(1, part)])
        assert (await store.get("key"))[1] == b"kept"

    run(body())

    run(body())


def test_copy(store: ObjectStore, run: Run[Any], file_of: FileOf) -> None:
    async def body() -> None:
        source = await store.put_file("a/source", file_of(BIG), len(BIG), metadata={"mode": "1"})
        kept = await store.copy("a/source", "b/kept", source_etag=source.etag)
        info = await store.head("b/kept")
        assert (kept.size, info.size, info.etag) == (len(BIG), len(BIG), kept.etag)
        assert info.metadata == {"mode": "1"}
        given = await store.copy("a/source", "b/other", metadata={"owner": "ü"})
        assert given.metadata == {"mode": "1", "owner": "ü"}
        assert (await store.head("b/other")).metadata == given.metadata
        await store.copy("b/other", "b/other", metadata={"self": "2", "mode": None, "none": None})
        changed = await store.head("b/other")
        assert changed.metadata == {"self": "2", "owner": "ü"}
        sink = MemorySink()
        await store.fetch("b/other", offset=0, length=len(BIG), if_match=changed.etag, sink=sink)
        assert sink.content == BIG
        assert (await store.head("a/source")).etag == source.etag

    run(body())


def test_conditions_of_copies(store: ObjectStore, run: Run[Any]) -> None:
    """S3 services may look at none, but do not stumble over them."""

    async def body() -> None:
        await store.put("source", b"1", metadata={"mode": "1"})
        other = await store.put("other", b"22")
        first = await store.copy("source", "target", condition=ABSENT)
        there = Condition(if_match=first.etag)
        second = await store.copy("other", "target", metadata={"mode": "2"}, condition=there)
        there = Condition(if_match=second.etag)
        third = await store.copy("target", "target", metadata={"mode": "3"}, condition=there)
        info = await store.head("target")
        assert (info.size, info.etag, info.metadata) == (2, third.etag, {"mode": "3"})
        await store.put("marker/", b"")
        await store.copy("marker/", "copied/", condition=ABSENT)
        assert (await store.head("copied/")).size == 0
        if isinstance(store, LocalStore):
            for condition in (ABSENT, Condition(if_match=first.etag), Condition(other.etag)):
                for target, metadata in (("target", None), ("target", {"mode": "4"})):
                    with pytest.raises(PreconditionFailed):
                        await store.copy("source", target, metadata=metadata, condition=condition)
            with pytest.raises(PreconditionFailed):
                await store.copy("source", "absent", condition=there)
            with pytest.raises(PreconditionFailed):
                await store.copy("marker/", "copied/", condition=ABSENT)
            assert await store.head("target") == info

    run(body())


def test_listing_by_directory(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        keys = ["a", "a.txt", "b/1", "b/2", "b/c/d", "b-1", "c/", "zebra"]
        for key in keys:
            await store.put(key, b"" if key.endswith("/") else b"x")
        assert await _all(store) == (["a", "a.txt", "b-1", "zebra"], ["b/", "c/"])
        assert await _all(store, "b/") == (["b/1", "b/2"], ["b/c/"])
        assert await _all(store, "b") == (["b-1"], ["b/"])
        assert await _all(store, "c/") == (["c/"], [])
        assert await _all(store, "nothing/") == ([], [])
        every, prefixes = await _all(store, delimiter=False)
        assert (every, prefixes) == (sorted(keys), [])
        assert await _all(store, "b/", delimiter=False) == (["b/1", "b/2", "b/c/d"], [])
        page = await store.list_page("", start_after="b-1")
        assert [item.key for item in page.objects] == ["zebra"]
        assert page.prefixes == ["b/", "c/"]
        after, _ = await _all(store, delimiter=False, start_after="b/2")
        assert after == ["b/c/d", "c/", "zebra"]
        for item in (await store.list_page("b/")).objects:
            info = await store.head(item.key)
            assert (info.size, info.etag) == (item.size, item.etag)

    run(body())


def test_listing_in_pages(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        keys = [f"d{i % 3}/f{i:02d}" for i in range(20)] + [f"top{i}" for i in range(5)]
        for key in keys:
            await store.put(key, b"")
        for limit in (1, 2, 3, 7, 25, 1000):
            assert await _all(store, delimiter=False, limit=limit) == (sorted(keys), [])
            assert await _all(store, limit=limit) == (
                [f"top{i}" for i in range(5)],
                ["d0/", "d1/", "d2/"],
            )
        first = await store.list_page("", delimiter=False, limit=4)
        assert first.token is not None
        pages = [await store.list_page("", delimiter=False, token=first.token) for _ in range(2)]
        assert [[item.key for item in page.objects] for page in pages] == [sorted(keys)[4:]] * 2

    run(body())


def test_markers_are_objects(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        marker = await store.put("dir/", b"", condition=ABSENT, metadata={"mode": "755"})
        with pytest.raises(PreconditionFailed):
            await store.put("dir/", b"", condition=ABSENT)
        info = await store.head("dir/")
        assert (info.size, info.etag, info.metadata) == (0, marker.etag, {"mode": "755"})
        assert (await store.get("dir/"))[1] == b""
        await store.put("dir/file", b"x")
        await store.delete("dir/file")
        assert await _all(store, delimiter=False) == (["dir/"], [])
        await store.delete("dir/")
        assert await _all(store, delimiter=False) == ([], [])
        await store.put("other/file", b"x")
        with pytest.raises(ObjectNotFound):
            await store.head("other/")
        await store.delete("other/file")
        assert await _all(store, delimiter=False) == ([], [])

    run(body())


def test_delete_many(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        keys = [f"d/{i:03d}&<>\"'é\r\n\t" for i in range(30)] + ["e/f/g", "x\x01y"]
        for key in keys:
            await store.put(key, b"x")
        await store.put("kept", b"x")
        assert await store.delete_many([*keys, "absent"]) == {}
        assert await _all(store, delimiter=False) == (["kept"], [])

    run(body())


def test_what_is_there_is_not_hidden_by_writes_under_way(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        upload = await store.create_multipart("a/b")
        assert await _all(store, delimiter=False) == ([], [])
        assert (await store.list_page("")).prefixes == []
        await store.abort_multipart("a/b", upload)

    run(body())


@pytest.mark.slow
def test_more_keys_than_fit_into_two_pages(store: ObjectStore, run: Run[Any]) -> None:
    """Nor into two requests that delete them."""

    async def body() -> None:
        keys = [f"many/{i:05d}" for i in range(2_500)]
        remaining = iter(keys)

        async def writer() -> None:
            for key in remaining:
                await store.put(key, b"")

        await asyncio.gather(*[writer() for _ in range(16)])
        assert await _all(store, "many/") == (keys, [])
        assert await store.delete_many(keys) == {}
        assert await _all(store, delimiter=False) == ([], [])

    run(body())


def test_concurrent_creators_have_one_winner(store: ObjectStore, run: Run[Any]) -> None:
    async def body() -> None:
        for round_number in range(5):
            answers = await asyncio.gather(
                *[
                    store.put(f"lock{round_number}", os.urandom(8), condition=ABSENT)
                    for _ in range(8)
                ],
                return_exceptions=True,
            )
            losers = [a for a in answers if isinstance(a, PreconditionFailed)]
            assert len(losers) == 7
            winner = next(a for a in answers if not isinstance(a, BaseException))
            assert (await store.head(winner.key)).etag == winner.etag

    run(body())
