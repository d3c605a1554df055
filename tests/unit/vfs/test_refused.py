"""What a store refuses is tried again, but not all the time."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from csi_slayer.catalog import ROOT, Pending
from csi_slayer.content import reconcile, retries
from csi_slayer.errors import AccessDenied, StoreUnavailable
from csi_slayer.observability.complaints import AGAIN
from tests.unit.vfs.harness import Volume

FILES = [b"f%d" % number for number in range(8)]


def forgetful(root: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """It remembers of two keys at most that they failed."""
    monkeypatch.setattr(reconcile, "RETRY_MEMORY", 2)
    monkeypatch.setattr(retries, "RETRY_MEMORY", 2)
    return Volume(root, passthrough=False, ttl=3600)


def test_more_refused_keys_than_are_remembered_rest_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = forgetful(tmp_path, monkeypatch)
    asked: list[str] = []

    async def refused(key: str, *_args: Any, **_values: Any) -> Any:
        asked.append(key)
        raise AccessDenied(f"{key!r}: not yours")

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(volume.store, "put", refused)
            for name in FILES:
                await volume.fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)
            await asyncio.sleep(20)  # a moment of the clock that the pauses are measured by
        assert sorted(asked) == [name.decode() for name in FILES]

    volume.run(scenario())
    volume.stop()
    assert sorted(volume.objects()) == [name.decode() for name in FILES]


def test_what_never_failed_does_not_rest_with_what_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More deletions are refused than are remembered one by one, and somebody makes a file."""
    volume = forgetful(tmp_path, monkeypatch)
    asked: list[str] = []

    async def refused(keys: Sequence[str]) -> Mapping[str, str]:
        asked.extend(keys)
        raise AccessDenied("not yours")

    async def scenario() -> None:
        for name in FILES:
            await volume.fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)
        assert await volume.fs.drain(60.0) == 0
        with monkeypatch.context() as patch:
            patch.setattr(volume.store, "delete_many", refused)
            for name in FILES:
                await volume.fs.unlink(volume.request(), ROOT, name)
            await asyncio.sleep(1)
            await volume.fs.mknod(volume.request(), ROOT, b"new", stat.S_IFREG | 0o644, 0)
            await asyncio.sleep(1)
            assert "new" in volume.objects()
            assert len(asked) < 3 * len(FILES)

    volume.run(scenario())
    volume.stop()
    assert sorted(volume.objects()) == ["new"]


def test_of_deletions_refused_together_only_those_rest_that_were_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    delete_many = volume.store.delete_many

    async def all_but_one(keys: Sequence[str]) -> Mapping[str, str]:
        await delete_many(keys[1:])
        return {keys[0]: "InternalError: try again"}

    async def scenario() -> None:
        for name in FILES:
            await volume.fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)
        await asyncio.sleep(20)
        with monkeypatch.context() as patch:
            patch.setattr(volume.store, "delete_many", all_but_one)
            for name in FILES:
                await volume.fs.unlink(volume.request(), ROOT, name)
            await asyncio.sleep(20)  # a moment of the clock that the pauses are measured by
        assert 0 < len(volume.objects()) < len(FILES)
        assert len(volume.fs.content.reconciler._retries) == len(volume.objects())

    volume.run(scenario())
    volume.stop()
    assert volume.objects() == {}


def test_what_was_made_anew_while_its_name_was_deleted_is_not_among_the_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(tmp_path, passthrough=False, ttl=3600)
    fs, delete_many = volume.fs, volume.store.delete_many

    async def all_but_one(keys: Sequence[str]) -> Mapping[str, str]:
        await delete_many(keys[1:])
        for name in keys[1:]:
            await make(name.encode())
        return {keys[0]: "InternalError: try again"}

    async def make(name: bytes) -> None:
        await fs.mknod(volume.request(), ROOT, name, stat.S_IFREG | 0o644, 0)

    async def scenario() -> None:
        for name in FILES:
            await make(name)
        assert await fs.drain(60.0) == 0
        with monkeypatch.context() as patch:
            patch.setattr(volume.store, "delete_many", all_but_one)
            for name in FILES:
                await fs.unlink(volume.request(), ROOT, name)
            rows = await fs.catalog.pendings("", 99)
            await fs.content.reconciler._delete_many(rows)
        refused, *others = await fs.catalog.pendings("", 99)
        assert refused.error == "InternalError: try again"
        assert others
        assert {row.error for row in others} == {None}
        assert len(fs.content.reconciler._retries) == 1

    volume.run(scenario())
    volume.stop()
    assert sorted(volume.objects()) == [name.decode() for name in FILES[1:]]


def test_of_many_deletions_that_are_refused_no_more_than_a_limit_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "RETRY_MEMORY", 2)
    noted = retries.Retries()
    for number in range(10):
        noted.put_off([f"a{number}", f"b{number}"], 100.0)
    assert len(noted) == 2
    assert noted.not_before("a9", noted.others) > time.monotonic() + 50
    assert noted.not_before("a0", 0.0) > time.monotonic() + 50


def test_deletions_that_go_on_failing_are_tried_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    noted, pauses = retries.Retries(), []
    for _ in range(8):
        noted.put_off(["key"], 2.0)
        pauses.append(noted.not_before("key", 0.0) - 1000.0)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]


@pytest.mark.parametrize("each", [True, False])
def test_the_log_does_not_grow_with_each_deletion_that_fails_again(each: bool) -> None:
    """A bucket that may be written to and not deleted from, and somebody removes a tree."""
    error = retries.NotDeleted({"old": "AccessDenied"}) if each else AccessDenied("no")
    noted = retries.Retries()

    def lines(attempts: int) -> int:
        rows = [Pending(key, "", 1, attempts, None, "t", 0) for key in ("old", "gone")]
        with capture_logs() as logs:
            noted.tell_deletions(rows, error)
        return len(logs)

    assert [number for number in range(1, 1000) if lines(number - 1)] == [
        2**power for power in range(10)
    ]


def test_a_reason_that_is_new_is_told_however_often_a_key_had_failed_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store was away for hours, and when it is back the key was revoked."""
    now = 1e6
    monkeypatch.setattr(time, "monotonic", lambda: now)
    noted = retries.Retries()
    rows = [Pending(key, "", 1, 1000, None, "t", 0) for key in ("gone", "old", "older")]
    with capture_logs() as logs:
        for _ in range(2):
            for key in "abc":
                noted.tell(key, 1000, StoreUnavailable("away"))
                noted.tell(key, 1001, AccessDenied("revoked"))
            noted.tell_deletions(rows, retries.NotDeleted({"old": "refused", "older": "refused"}))
            noted.tell_deletions(rows, AccessDenied("revoked"))
            now += AGAIN
    lines = [(line.get("key"), line["error"]) for line in logs]
    assert lines == 2 * [("a", "away"), ("a", "revoked"), ("old", "refused")], "once in a while"


def test_the_log_does_not_grow_with_each_upload_that_fails_again() -> None:
    noted = retries.Retries()
    with capture_logs() as logs:
        for number in range(1, 1000):
            noted.tell("key", number, AccessDenied("the key was revoked"))
    assert [line["attempts"] for line in logs] == [2**power for power in range(10)]
