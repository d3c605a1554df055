"""A thread ends before the request that it works for does."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from csi_slayer.content import staged
from csi_slayer.content.staged import copy_range
from csi_slayer.content.threads import to_its_end


def test_the_result_is_handed_on() -> None:
    assert asyncio.run(to_its_end(lambda unwanted: unwanted.is_set())) is False


def test_what_it_raises_is_raised() -> None:
    def fail(_unwanted: threading.Event) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        asyncio.run(to_its_end(fail))


@pytest.mark.parametrize("fails", [False, True])
def test_who_is_cancelled_waits_for_it(fails: bool) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work(unwanted: threading.Event) -> None:
        begun.set()
        assert unwanted.wait(30)
        assert may_end.wait(30)
        ended.set()
        if fails:
            raise ValueError("nobody is told")

    async def run() -> None:
        task = asyncio.create_task(to_its_end(work))
        await asyncio.to_thread(begun.wait, 30)
        for _ in range(3):  # however often
            task.cancel()
            await asyncio.sleep(0.01)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(run())


def test_a_copy_ends_when_nobody_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "COPIED_AT_ONCE", 1000)
    source, target = (os.open(tmp_path / n, os.O_RDWR | os.O_CREAT) for n in ("a", "b"))
    os.write(source, b"x" * 5000)
    unwanted = threading.Event()
    assert copy_range(source, 10, target, 20, 4000, unwanted) == 4000
    assert os.pread(target, 5000, 0) == bytes(20) + b"x" * 4000
    calls = []

    def once(*args: int) -> int:
        calls.append(args)
        unwanted.set()
        return args[2]

    monkeypatch.setattr(os, "copy_file_range", once)
    assert copy_range(source, 0, target, 0, 4000, unwanted) == 1000
    assert len(calls) == 1
    for fd in (source, target):
        os.close(fd)
