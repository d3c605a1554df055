"""Processes that hold secrets leave no core dump: every kind of them is looked at."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.node import registry
from tests.support.csi import connected, mount_capability
from tests.support.driver import driver
from tests.support.mounts import CLI, wait_for
from tests.support.processes import descendants
from tests.support.servers import live_pids

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def dumps_are_allowed() -> Iterator[None]:
    """As far as whoever starts the processes is concerned."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_CORE, unlimited)
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


def limits(pid: int) -> tuple[str, ...]:
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith("Max core file size"):
            return tuple(line.split()[4:6])
    raise AssertionError("no such limit")


def family(pid: int) -> list[int]:
    """The process and all below it."""
    return [pid, *descendants(pid)]


def test_none_of_the_driver_s_processes_dumps(short_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "buckets").mkdir()
    store = {"local": str(tmp_path / "buckets"), "bucket": "home"}
    with driver(short_directory, store=store) as running:
        target = running.kubelet / "pods" / "t" / "mount"
        target.parent.mkdir(parents=True)

        async def publish() -> None:
            (tmp_path / "buckets" / "data-set").mkdir()
            async with connected(running.socket) as node:
                fields = {"volume_id": "v", "target_path": str(target)}
                await node(
                    "NodePublishVolume",
                    **fields,
                    volume_capability=mount_capability(),
                    volume_context={"bucket": "data-set"},
                )
                found = {pid: limits(pid) for pid in family(running.pid("node"))}
                assert len(found) >= 3  # node service, template, worker
                found |= {running.pid(role): limits(running.pid(role)) for role in (
                    "keeper", "controller")}  # fmt: skip
                assert set(found.values()) == {("1", "1")}, found
                await node("NodeUnpublishVolume", **fields)

        asyncio.run(publish())


def test_neither_supervisor_nor_worker_of_a_mount_dumps(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    root = tmp_path / "mnt"
    root.mkdir()
    cache = ("--cache-dir", str(tmp_path / "cache"))
    source = f"file://{tmp_path}/objects"
    subprocess.run([*CLI, "mount", source, str(root), *cache], check=True, timeout=60)
    entry = registry.find(str(root))
    assert entry is not None
    live_pids.add(entry.supervisor)
    found = [limits(pid) for pid in family(entry.supervisor)]
    assert found == [("1", "1")] * 2
    subprocess.run([*CLI, "umount", str(root)], check=True, timeout=60)

    with subprocess.Popen([*CLI, "mount", source, str(root), *cache, "--foreground"]) as process:
        wait_for(lambda: os.path.ismount(root), what="a mount")
        assert {limits(pid) for pid in family(process.pid)} == {("1", "1")}
        process.terminate()


@pytest.mark.parametrize(
    "module", ["csi_slayer.worker", "csi_slayer.node.supervise", "csi_slayer.node.template"]
)
def test_each_forbids_it_itself(module: str) -> None:
    """Whatever has started it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", module, str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        wait_for(lambda: limits(process.pid) == ("1", "1"), what="the limit")
        ours.close()
