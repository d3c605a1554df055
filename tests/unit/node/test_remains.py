"""Processes of which something is left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from csi_slayer.node import launcher
from csi_slayer.node.launcher import Process
from csi_slayer.node.remains import is_all_that_is_left
from tests.support.mounts import wait_for
from tests.support.remains import REMAIN


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "end"


def start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", REMAIN + code])


def test_one_that_lives_is_more_than_what_is_left() -> None:
    with start("import time; time.sleep(60)") as process:
        assert not is_all_that_is_left(process.pid)
        process.kill()
        # Not reaped yet.
        wait_for(lambda: is_all_that_is_left(process.pid), what="its end")
    assert is_all_that_is_left(process.pid), "nothing is left of it"


def test_a_thread_alone_is_all_that_is_left(marker: Path) -> None:
    with start(f"remain({str(marker)!r})") as process:
        wait_for(lambda: is_all_that_is_left(process.pid), what="the end of its first thread")
        assert process.poll() is None
        marker.touch()


def test_the_node_service_does_not_wait_for_it(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SETTLE", 0.05)
    asyncio.run(waits_for_nothing(marker))


async def waits_for_nothing(marker: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    child = start(f"remain({str(marker)!r})")
    pidfd = os.pidfd_open(child.pid)
    process = Process(child.pid, pidfd)
    async with asyncio.timeout(30):
        assert await process.wait() is None
    process.close()
    assert child.poll() is None
    marker.touch()
    # It is still seen to.
    await asyncio.to_thread(wait_for, lambda: set(os.listdir("/proc/self/fd")) == before)
    assert not os.path.exists(f"/proc/{child.pid}"), "nobody has reaped it"
    child.poll()
