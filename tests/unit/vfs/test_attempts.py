"""Attempts to bring a key up to date, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_slayer.catalog import ROOT, Pending
from csi_slayer.errors import StoreUnavailable
from tests.unit.vfs.calls import Gate, begin, create
from tests.unit.vfs.harness import DRAIN, Volume


@pytest.mark.parametrize("turns", range(4))
def test_an_attempt_that_follows_a_failed_deletion_at_once_is_known(
    tmp_path: Path, turns: int
) -> None:
    """The end of the deletion, noted some turns of the loop later, is not that of the attempt."""
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, store = volume.fs, volume.store
    asked, fail = asyncio.Event(), asyncio.Event()

    async def delete(key: str) -> None:
        asked.set()
        await fail.wait()
        raise StoreUnavailable("the store is away")

    async def run() -> None:
        await create(volume, b"f", b"old")
        original, store.delete = store.delete, delete  # type: ignore[method-assign]
        await fs.unlink(volume.request(), ROOT, b"f")
        await asked.wait()
        store.delete = original  # type: ignore[method-assign]
        ino, opened = await begin(volume, b"f", b"new")
        sending = Gate(volume, "put")
        fail.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        flush = asyncio.create_task(fs.flush(volume.request(), ino, opened.fh))
        await sending.reached.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        assert fs.content.reconciler.is_active("f")
        sending.open.set()
        await flush
        await fs.release(volume.request(), ino, opened.fh)

    volume.run(run())
    assert volume.objects() == {"f": b"new"}
    volume.stop()


@pytest.mark.allow_log("reconcile failed")
@pytest.mark.allow_log("Traceback")
@pytest.mark.parametrize("request_name", ["put", "delete", "delete_many"])
def test_an_error_that_nobody_thought_of_is_shown_and_holds_up_no_other_key(
    tmp_path: Path, request_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600, durability="writeback")
    fs, store = volume.fs, volume.store
    names = [b"a", b"b"] if request_name == "delete_many" else [b"a"]

    async def broken(*_args: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    async def remove() -> None:
        for name in names:
            await fs.unlink(volume.request(), ROOT, name)

    def pending() -> list[Pending]:
        return volume.run(volume.catalog.pendings("", 9))

    def until(is_so: Callable[[], bool]) -> None:
        while not is_so():
            volume.turn(50)

    original = getattr(store, request_name)
    if request_name == "put":
        store.put = broken  # type: ignore[method-assign,assignment]
        volume.run(create(volume, b"a", b"new"))
    else:
        for name in names:
            volume.run(create(volume, name, b"old"))
        volume.run(fs.drain(DRAIN))
        setattr(store, request_name, broken)
        volume.run(remove())
    until(lambda: all(row.error for row in pending()))
    assert [row.key.encode() for row in pending()] == names
    for row in pending():
        assert row.error == "RuntimeError: can't start new thread"
        assert row.key in fs.content.reconciler._retries  # it is left alone for a while
    if request_name != "put":
        volume.run(create(volume, b"z", b"other"))
        until(lambda: "z" not in [row.key for row in pending()])
    setattr(store, request_name, original)
    volume.stop()
    assert caplog.text.count("Traceback") <= 1
    assert volume.objects() == ({"a": b"new"} if request_name == "put" else {"z": b"other"})
