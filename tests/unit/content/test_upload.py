"""Sizes and identity of parts; what is sent again and what is not, with a real local store."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.catalog import Catalog, Defaults
from csi_slayer.content import upload
from csi_slayer.content.checksums import checksum
from csi_slayer.content.opened import OpenInodes
from csi_slayer.content.staged import StagedFile
from csi_slayer.content.tasks import end_task
from csi_slayer.content.upload import (
    MAX_PARTS,
    PARTS_AT_ONCE,
    Multipart,
    NotWanted,
    Uploader,
    condition_for,
    part_size_for,
)
from csi_slayer.errors import PreconditionFailed, SourceUnreadable, StoreUnavailable
from csi_slayer.store.base import ABSENT, ANY, Condition, ObjectInfo, ObjectStore
from csi_slayer.store.open import open_store
from csi_slayer.store.options import StoreOptions
from csi_slayer.store.write_token import WRITE_TOKEN

PART = 5 << 20


@given(st.integers(0, 5 << 40), st.integers(5 << 20, 1 << 30))
def test_part_sizes_fit_the_limits_of_s3(size: int, wanted: int) -> None:
    part = part_size_for(size, wanted)
    assert part >= wanted
    assert -(-size // part) <= MAX_PARTS
    assert part == wanted or part % (1 << 20) == 0
    assert part == wanted or part - (1 << 20) < -(-size // MAX_PARTS)  # no larger than needed


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300))
def test_checksums_are_of_the_range(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, offset: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("checksum") / "file"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        expected = xxhash.xxh3_64_intdigest(data[offset : offset + length])
        assert checksum(fd, offset, length) == expected
    finally:
        os.close(fd)


def test_conditions_of_pending_rows() -> None:
    assert condition_for(None) == ANY
    assert condition_for("") == ABSENT
    assert condition_for("etag") == Condition(if_match="etag")


def test_an_upload_sent_ahead_fits_whatever_the_mtime() -> None:
    upload = Multipart("key", "id", PART, {"mode": "33188", "mtime": "1.0", WRITE_TOKEN: "a"})
    assert upload.fits("key", PART, {"mode": "33188", "mtime": "2.0", WRITE_TOKEN: "b"})
    assert not upload.fits("key", PART, {"mode": "33152", "mtime": "1.0"})
    assert not upload.fits("other", PART, {"mode": "33188"})
    assert not upload.fits("key", 2 * PART, {"mode": "33188"})


class Bench:
    """An uploader on a directory, and the numbers of the parts that it sent."""

    def __init__(self, store: ObjectStore, catalog: Catalog, path: Path) -> None:
        self.sent: list[int] = []
        self.store, self.catalog = store, catalog
        self.uploader = Uploader(store, catalog, OpenInodes(), PART)
        path.touch()
        self.file = StagedFile("stage", str(path), os.open(path, os.O_RDWR))
        send = store.upload_part

        async def upload_part(
            key: str, upload_id: str, number: int, fd: int, offset: int, length: int
        ) -> str:
            self.sent.append(number)
            return await send(key, upload_id, number, fd, offset, length)

        store.upload_part = upload_part  # type: ignore[method-assign]

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self.file.fd, data, offset)

    async def send(self, condition: Condition = ANY) -> bytes:
        """Upload the file as it is; what the store has then."""
        await self.uploader.send(7, "key", self.file, self.file.size, condition, {})
        content = b""
        while len(content) < self.file.size:
            _info, data = await self.store.get("key", offset=len(content), length=PART)
            content += data
        return content


@asynccontextmanager
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "objects").mkdir()
    store = await open_store(f"file://{tmp_path}/objects", StoreOptions())
    catalog = Catalog(tmp_path / "catalog.db", Defaults(0, 0, 0o644, 0o755))
    made = Bench(store, catalog, tmp_path / "stage")
    try:
        yield made
    finally:
        await made.file.close()
        catalog.close()
        await store.close()


def test_small_files_are_one_put(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            for size in (0, 1, 1 << 20, (1 << 20) + 1, PART):
                it.write(0, os.urandom(size))
                os.ftruncate(it.file.fd, size)
                assert await it.send() == os.pread(it.file.fd, size, 0)
            assert it.sent == []

    asyncio.run(run())


def test_parts_sent_ahead_are_sent_again_only_if_they_changed(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART + 1000))
            await it.uploader.send_ahead(7, "key", it.file, {})
            assert sorted(it.sent) == [1, 2]  # the last full part may still be written to
            assert [key for _, key in await it.catalog.uploads()] == ["key"]
            it.write(PART + 5, b"changed after it was sent")
            assert await it.send() == os.pread(it.file.fd, 4 * PART, 0)
            assert sorted(it.sent) == [1, 2, 2, 3, 4]
            assert await it.catalog.uploads() == []

    asyncio.run(run())


@pytest.mark.parametrize("wanted", ["1000000000.000000000", "9000000000.000000000"])
def test_a_time_that_was_set_after_parts_were_sent_ahead(tmp_path: Path, wanted: str) -> None:
    """As programs do that unpack or copy: the metadata was fixed when the upload began."""
    begun = f"{int(time.time()) - 1}.000000000"

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART))
            await it.uploader.send_ahead(7, "key", it.file, {"mtime": begun})
            values = {"mtime": wanted}
            info = await it.uploader.send(7, "key", it.file, it.file.size, ANY, values)
            found = await it.store.head("key")
            assert (found.etag, found.metadata) == (info.etag, values)
            assert sorted(it.sent) == [1, 2, 3]

    asyncio.run(run())


def test_a_time_to_come_that_is_in_the_object_is_not_written_again(tmp_path: Path) -> None:
    """That would copy all of it."""
    values = {"mtime": "9000000000.000000000"}

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART))
            it.store.copy = None  # type: ignore[assignment, method-assign]
            await it.uploader.send(7, "key", it.file, it.file.size, ANY, values)
            assert (await it.store.head("key")).metadata == values

    asyncio.run(run())


def test_a_file_cut_shorter_loses_the_parts_sent_ahead(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(4 * PART))
            await it.uploader.send_ahead(7, "key", it.file, {})
            os.ftruncate(it.file.fd, 2 * PART + 1)
            assert await it.send() == os.pread(it.file.fd, 4 * PART, 0)
            os.ftruncate(it.file.fd, 10)
            assert await it.send() == os.pread(it.file.fd, 10, 0)

    asyncio.run(run())


def test_a_refused_upload_leaves_nothing_unfinished(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(2 * PART))
            await it.store.put("key", b"somebody else's")
            with pytest.raises(PreconditionFailed):
                await it.send(ABSENT)
            assert await it.catalog.uploads() == []
            assert (await it.store.get("key"))[1] == b"somebody else's"

    asyncio.run(run())


def test_what_an_earlier_worker_began_is_aborted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "LEFT_PAUSE", 0.01)

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART))
            await it.uploader.send_ahead(7, "key", it.file, {})
            task = asyncio.create_task(
                Uploader(it.store, it.catalog, OpenInodes(), PART).abort_left()
            )
            await _until_none(it)
            await end_task(task)

    asyncio.run(run())


async def _until_none(it: Bench) -> None:
    async with asyncio.timeout(10):
        while await it.catalog.uploads():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


def test_what_could_not_be_aborted_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            task = asyncio.create_task(it.uploader.abort_left())
            it.write(0, os.urandom(3 * PART))
            await it.uploader.send_ahead(7, "key", it.file, {})
            with monkeypatch.context() as away:
                away.setattr(it.store, "abort_multipart", _away)
                await it.uploader.forget(7)
            assert len(await it.catalog.uploads()) == 1
            await _until_none(it)
            assert not list(await it.store.list_multipart(""))
            await end_task(task)

    monkeypatch.setattr(upload, "LEFT_PAUSE", 0.01)
    asyncio.run(run())


async def _away(key: str, upload_id: str) -> None:
    raise StoreUnavailable("the store is away")


def test_a_removed_file_takes_its_parts_with_it(tmp_path: Path) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART))
            await it.uploader.send_ahead(7, "key", it.file, {})
            await it.uploader.forget(7)
            await it.uploader.forget(8)
            assert await it.catalog.uploads() == []

    asyncio.run(run())


@pytest.mark.parametrize("who", ["this worker", "an earlier one"])
def test_an_upload_to_which_a_part_comes_after_its_abort_is_aborted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """The store had all of the part when who sent it went away."""
    begun: list[tuple[str, str]] = []

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(3 * PART))
            aborts: list[str] = []
            sending = asyncio.Event()

            async def upload_part(key: str, upload_id: str, *_args: int) -> str:
                begun.append((upload_id, key))
                sending.set()
                return await asyncio.Future()

            async def abort(_key: str, upload_id: str) -> None:
                aborts.append(upload_id)

            monkeypatch.setattr(it.store, "upload_part", upload_part)
            monkeypatch.setattr(it.store, "abort_multipart", abort)
            task = asyncio.create_task(it.send())
            await sending.wait()
            await end_task(task)
            if who == "an earlier one":
                await it.catalog.upload_began(*begun[0])
                aborts.clear()
                it.uploader = Uploader(it.store, it.catalog, OpenInodes(), PART)
            again = asyncio.create_task(it.uploader.abort_left())
            await _until_none(it)
            assert len(aborts) > 1
            await end_task(again)

    monkeypatch.setattr(upload, "LEFT_PAUSE", 0.01)
    asyncio.run(run())


@pytest.mark.parametrize("ends", ["removed", "cut off"])
def test_what_is_not_wanted_any_more_is_not_sent_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(upload, "LEFT_PAUSE", 0.01)

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(20 * PART - 1, b"x")
            send, ended = it.store.upload_part, asyncio.Event()

            async def upload_part(
                key: str, upload_id: str, number: int, fd: int, offset: int, length: int
            ) -> str:
                if number > 5:
                    await ended.wait()
                etag = await send(key, upload_id, number, fd, offset, length)
                if number == 5 and ends == "removed":
                    await it.uploader.forget(7)
                elif number == 5:
                    await it.file.truncate(0)
                if number == 5:
                    ended.set()
                return etag

            it.store.upload_part = upload_part  # type: ignore[method-assign]
            with pytest.raises(NotWanted):
                await it.send()
            assert len(it.sent) <= 5 + PARTS_AT_ONCE - 1
            task = asyncio.create_task(it.uploader.abort_left())
            await _until_none(it)
            await end_task(task)
            await it.uploader.forget(7)  # nothing is remembered of it

    asyncio.run(run())


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_small_file_that_is_cut_while_it_is_read_is_looked_at_again(
    tmp_path: Path, size: int
) -> None:
    """It is no error of who closes it."""

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, b"x" * 10)
            with pytest.raises(NotWanted):
                await it.uploader.send(7, "key", it.file, size, ANY, {})

    asyncio.run(run())


def test_uploads_of_one_file_come_one_after_the_other(tmp_path: Path) -> None:
    """Also that of who comes just when one has ended, and another has waited for it."""

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, os.urandom(2 * PART))
            complete, sending, most = it.store.complete_multipart, 0, 0
            begin = it.store.create_multipart

            async def create_multipart(key: str, **how: Any) -> str:
                nonlocal sending, most
                sending += 1
                most = max(most, sending)
                return await begin(key, **how)

            async def complete_multipart(key: str, *args: Any, **how: Any) -> ObjectInfo:
                nonlocal sending
                info = await complete(key, *args, **how)
                sending -= 1
                return info

            it.store.create_multipart = create_multipart  # type: ignore[method-assign]
            it.store.complete_multipart = complete_multipart  # type: ignore[method-assign]

            def send(key: str) -> asyncio.Task[ObjectInfo]:
                sent = it.uploader.send(7, key, it.file, 2 * PART, ANY, {})
                return asyncio.create_task(sent)

            first, second = send("a"), send("b")
            await first
            third = send("c")
            await it.uploader.send_ahead(7, "key", it.file, {})
            assert it.uploader.sent_ahead() == [], "the whole of it is being sent"
            await asyncio.gather(second, third)
            assert most == 1
            assert len(it.sent) == 6

    asyncio.run(run())


@pytest.mark.parametrize("size", [1000, 2 * PART])
def test_a_staged_copy_that_cannot_be_read_is_an_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """One that is noted with the file, as those of the store are."""

    def pread(*_values: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, bytes(size))
            monkeypatch.setattr(os, "pread", pread)
            monkeypatch.setattr(os, "preadv", pread)
            with pytest.raises(SourceUnreadable, match="Input/output error"):
                await it.uploader.send(7, "key", it.file, size, ANY, {})
            assert it.sent == []
            assert await it.catalog.uploads() == []

    asyncio.run(run())


@pytest.mark.parametrize("size", [2 << 20, 2 * PART])
def test_one_that_was_cut_off_while_it_was_read_and_has_grown_since_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async def run() -> None:
        async with bench(tmp_path) as it:
            it.write(0, bytes(size))
            with monkeypatch.context() as patch:
                patch.setattr(os, "copy_file_range", lambda *_values: 0)
                with pytest.raises(NotWanted):
                    await it.uploader.send(7, "key", it.file, size, ANY, {})
            assert await it.send() == bytes(size)

    asyncio.run(run())
