"""Staged files made ahead: when, how many, and that none is left."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from csi_slayer.cache import Cache, Stage, Staging
from csi_slayer.content import spares
from csi_slayer.content.spares import SPARES, Spares
from csi_slayer.errors import CacheError


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return Cache(tmp_path, 1 << 30).staging("volume")


class Owner:
    """Ends what it has spawned."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    def spawn(self, work: object) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))  # type: ignore[arg-type]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def discard(staging: Staging, stage: Stage) -> None:
    os.close(stage.fd)
    staging.remove(stage.id)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a file system does not tell
            await asyncio.sleep(0.005)


def count(staging: Staging) -> int:
    return len(list(staging.list()))


@pytest.fixture(autouse=True)
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long this machine takes between two files."""
    monkeypatch.setattr(spares, "CROWD", 60.0)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "SLOW", 0.0)


@pytest.mark.usefixtures("slow_disk")
def test_a_crowd_gets_files_made_ahead_and_none_is_left(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "IDLE", 60.0)

    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take(), files.take()]
        await until(lambda: count(staging) == SPARES + 2)
        made = time.time_ns()
        await asyncio.sleep(0.02)
        taken += [files.take() for _ in range(5)]
        assert count(staging) == SPARES + 2, "they were there already"
        assert all(os.fstat(stage.fd).st_mtime_ns > made for stage in taken[2:]), "new files"
        assert len({stage.id for stage in taken}) == len(taken)
        monkeypatch.setattr(spares, "IDLE", 0.1)  # from the next filling on
        taken += [files.take() for _ in range(3 * SPARES)]
        assert len({stage.id for stage in taken}) == len(taken)
        await until(lambda: all(task.done() for task in owner.tasks))
        assert {stage.id for stage in staging.list()} == {stage.id for stage in taken}
        for stage in taken:
            discard(staging, stage)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(scenario())
    assert count(staging) == 0
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.usefixtures("slow_disk")
def test_single_files_have_none_made_ahead(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "CROWD", 0.0)

    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take() for _ in range(5)]
        assert owner.tasks == []
        assert count(staging) == 5
        for stage in taken:
            discard(staging, stage)

    asyncio.run(scenario())


@pytest.mark.usefixtures("slow_disk")
def test_the_end_of_the_volume_leaves_none(staging: Staging) -> None:
    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take(), files.take()]
        await asyncio.sleep(0)  # they are being made
        await owner.close()
        assert {stage.id for stage in staging.list()} == {stage.id for stage in taken}

    asyncio.run(scenario())


@pytest.mark.parametrize("slow", [100.0, 1e-9])
def test_a_disk_that_is_fast_needs_none(
    staging: Staging, monkeypatch: pytest.MonkeyPatch, slow: float
) -> None:
    """It is found out before, or when the first are made."""
    monkeypatch.setattr(spares, "SLOW", slow)
    monkeypatch.setattr(spares, "IDLE", 0.01)

    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take(), files.take()]
        monkeypatch.setattr(spares, "SLOW", 100.0)
        await asyncio.gather(*owner.tasks)
        assert len(owner.tasks) == (slow < 1)
        assert {stage.id for stage in staging.list()} == {stage.id for stage in taken}

    asyncio.run(scenario())


def test_files_that_turned_out_not_to_be_needed_are_used_before_they_are_removed(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a thread: there may be a good many."""
    monkeypatch.setattr(spares, "SLOW", 1e-9)
    monkeypatch.setattr(spares, "IDLE", 100.0)
    removers: list[int] = []
    remove = staging.remove

    def note(stage: str) -> None:
        removers.append(threading.get_ident())
        remove(stage)

    monkeypatch.setattr(staging, "remove", note)

    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take(), files.take()]
        monkeypatch.setattr(spares, "SLOW", 100.0)
        await until(lambda: count(staging) == SPARES + 2)
        taken += [files.take() for _ in range(SPARES // 4)]
        assert count(staging) == SPARES + 2
        files._low.set()  # nobody is waited for any longer
        await until(lambda: all(task.done() for task in owner.tasks))
        assert {stage.id for stage in staging.list()} == {stage.id for stage in taken}
        for stage in taken:
            os.close(stage.fd)

    asyncio.run(scenario())
    assert len(removers) == SPARES - SPARES // 4
    assert threading.get_ident() not in removers


def test_a_file_that_cannot_be_removed_keeps_no_other_open(
    staging: Staging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spares, "SLOW", 1e-9)

    def refuse(_stage: str) -> None:
        raise CacheError("the disk is broken")

    async def scenario() -> None:
        owner = Owner()
        files = Spares(staging, owner.spawn)
        taken = [files.take(), files.take()]
        await until(lambda: count(staging) == SPARES + 2)
        monkeypatch.setattr(staging, "remove", refuse)
        await owner.close()
        for stage in taken:
            os.close(stage.fd)

    asyncio.run(scenario())
    still = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    assert not [path for path in still if path.startswith(str(staging.directory))]
