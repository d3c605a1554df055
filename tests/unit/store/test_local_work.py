"""What the local store's work tells its observer."""

from __future__ import annotations

import asyncio
import threading

import pytest

from csi_slayer.store.local.work import WorkThreads
from csi_slayer.store.observe import GIVEN_UP, NoObserver


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
