"""What the local store's work tells its observer."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path

import pytest

from csi_slayer.errors import CacheFull, SlayerError, SourceUnreadable
from csi_slayer.store.local.drafts import Draft
from csi_slayer.store.local.open import open_local
from csi_slayer.store.local.work import WorkThreads
from csi_slayer.store.observe import GIVEN_UP, NoObserver
from csi_slayer.store.options import StoreOptions


class Recorder(NoObserver):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int | None]] = []

    def on_request(
        self, op: str, status: int | None, seconds: float, sent: int, received: int
    ) -> None:
        self.calls.append((op, status))


def test_work_that_is_cancelled_was_given_up() -> None:
    begun, go_on = threading.Event(), threading.Event()
    recorder = Recorder()

    def wait(stop: object) -> None:
        begun.set()
        assert go_on.wait(20)

    async def body() -> None:
        threads = WorkThreads(1, recorder)
        task = asyncio.ensure_future(threads.run("GetObject", "key", wait))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await threads.close()

    asyncio.run(body())
    assert recorder.calls == [("GetObject", GIVEN_UP)]


@pytest.mark.parametrize("error", [CacheFull("full"), SourceUnreadable("EIO")])
def test_a_local_file_that_fails_is_no_failure_of_the_store(error: SlayerError) -> None:
    recorder = Recorder()

    def fail(_stop: object) -> None:
        raise error

    async def body() -> None:
        threads = WorkThreads(1, recorder)
        with pytest.raises(type(error)):
            await threads.run("GetObject", "key", fail)
        await threads.close()

    asyncio.run(body())
    assert recorder.calls == [("GetObject", GIVEN_UP)]


def test_what_is_fetched_waits_for_nothing_that_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written to may be read only after the write, and that may wait for a fetch."""
    go_on = threading.Event()
    append = Draft.append_file

    def waiting(draft: Draft, source: int, offset: int, length: int) -> None:
        assert go_on.wait(20)
        append(draft, source, offset, length)

    monkeypatch.setattr(Draft, "append_file", waiting)

    async def body(fd: int) -> None:
        store = await open_local(f"file://{tmp_path}", StoreOptions(transfer_threads=1))
        info = await store.put("there", b"data")
        upload = await store.create_multipart("key")
        for send in (
            store.put_file("key", fd, 4),
            store.upload_part("key", upload, 1, fd, 0, 4),
        ):
            go_on.clear()
            task = asyncio.ensure_future(send)
            async with asyncio.timeout(10):
                assert (await store.head("there")).etag == info.etag
            assert not task.done()
            go_on.set()
            await task
        await store.close()

    with tempfile.TemporaryFile() as file:
        file.write(b"sent")
        file.flush()
        asyncio.run(body(file.fileno()))
