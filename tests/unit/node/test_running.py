"""A worker's task when nothing can be started."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence

import pytest

from csi_slayer.errors import MountFailed
from csi_slayer.node import running
from csi_slayer.node.launcher import Process
from csi_slayer.node.lifecycle import Lifecycle
from csi_slayer.node.running import Running, State

ERRORS = (OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"),
          MountFailed("no template"))  # fmt: skip


class Launcher:
    """Fails in each way once, then never answers."""

    def __init__(self) -> None:
        self.errors = list(ERRORS)
        self.waiting = asyncio.Event()

    async def launch(self, end: socket.socket, keep: Sequence[int] = ()) -> Process:
        if self.errors:
            raise self.errors.pop(0)
        self.waiting.set()
        await asyncio.Event().wait()
        raise AssertionError


def running_with(launcher: Launcher, life: Lifecycle, ended: list[str]) -> Running:
    async def on_start(pid: int) -> None:
        pass

    return Running(
        life,
        launcher,
        (),
        on_start=on_start,
        on_session=lambda: None,
        on_gone=lambda: ended.append("gone"),
    )


def test_a_mount_that_pods_have_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BACKOFF_MAX", 0.0)

    async def run() -> None:
        launcher, ended = Launcher(), list[str]()
        it = running_with(launcher, Lifecycle({}, session={"connection": 1}), ended)
        it.start()
        await launcher.waiting.wait()
        assert it.state is State.RESTARTING
        assert ended == []
        await it.stop()

    asyncio.run(run())


def test_what_is_mounted_outlives_a_process_that_ends_in_disorder() -> None:
    """Its tasks are cancelled then, and nobody has said stop: its successor goes on."""
    ended = list[str]()

    async def run() -> None:
        launcher = Launcher()
        launcher.errors = []
        it = running_with(launcher, Lifecycle({}, session={"connection": 1}), ended)
        it.start()
        await launcher.waiting.wait()

    asyncio.run(run())
    assert ended == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_new_mount_fails_with_the_reason(error: Exception) -> None:
    async def run() -> None:
        launcher, ended = Launcher(), list[str]()
        launcher.errors = [error]
        it = running_with(launcher, Lifecycle({}), ended)
        it.start()
        with pytest.raises(MountFailed, match=r"open files|new thread|no template"):
            await it.serving(5.0)
        assert ended == ["gone"]

    asyncio.run(run())
