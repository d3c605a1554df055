"""Threads where the system has no more of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from csi_slayer.store.threads import Threads, run_in_thread


class Limit:
    """How many more threads there may be, of those whose names begin with "few"."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        start = threading.Thread.start

        def limited(thread: threading.Thread) -> None:
            if thread.name.startswith("few"):
                if self.left == 0:
                    raise RuntimeError("can't start new thread")
                self.left -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)


def test_those_that_there_are_do_all_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    Limit(monkeypatch, 1)
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> str:
        begun.set()
        assert go_on.wait(20)
        return "first"

    async def body() -> None:
        with Threads(2, "few") as threads:
            first = asyncio.ensure_future(run_in_thread(threads, wait, go_on.set))
            assert await asyncio.to_thread(begun.wait, 20)
            second = asyncio.ensure_future(run_in_thread(threads, lambda: "second", go_on.set))
            await asyncio.sleep(0)
            assert not second.done()
            go_on.set()
            assert (await first, await second) == ("first", "second")

    asyncio.run(body())


def test_what_was_refused_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a descriptor that is another file's by then."""
    limit = Limit(monkeypatch, 0)
    done: list[str] = []
    with Threads(2, "few") as threads:
        with pytest.raises(RuntimeError, match="can't start"):
            threads.submit(done.append, "refused")
        limit.left = 1
        threads.submit(done.append, "taken").result(20)
    assert done == ["taken"]
