"""A worker is killed while its invalidations wait in the kernel for what only a worker answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MODES, MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.support.faults import Blackhole, Delay
from tests.support.mounts import TestMount, wait_for
from tests.support.servers import S3Server
from tests.support.stuck import (
    EMPTY,
    SIZE,
    WRITE,
    Slow,
    died,
    ended,
    waits_for_ever,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ENGINES = {
    **MODES,
    # Requests under way can only be handed over by kernels that resend (6.9 and later).
    "none": ["fuse.disable=passthrough,splice,readdirplus,parallel_dirops"],
}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "libfuse":
        pytest.importorskip("pyfuse3")
    return str(request.param)


@pytest.fixture
def slow(versitygw: S3Server) -> Iterator[Slow]:
    with Slow(versitygw) as made:
        yield made


@pytest.fixture
def volume(slow: Slow, tmp_path: Path) -> Iterator[TestMount]:
    """Not mounted yet."""
    made = s3_volume(slow.server, slow.bucket, tmp_path, endpoint=slow.proxy.endpoint)
    yield made
    slow.proxy.heal()
    made.close()


def mounted(volume: TestMount, capabilities: list[str]) -> TestMount:
    volume.options += [*capabilities, "volume.metadata_ttl=0"]
    return volume.mount()


def kill_stuck(mount: TestMount, slow: Slow) -> int:
    """Kill the worker once its invalidation waits; returns its pid when another one serves."""
    pid = mount.worker_pid()
    wait_for(lambda: waits_for_ever(pid), what="an invalidation that waits")
    assert mount.kill_worker() == pid
    slow.proxy.heal()
    mount.wait_for_successor(pid)
    mount.wait_idle()
    assert mount.ask_status()["restarts"] == 1
    return pid


def test_a_read_under_way_of_what_was_replaced(slow: Slow, volume: TestMount, engine: str) -> None:
    mount = mounted(volume, ENGINES[engine])
    reader, new = slow.read(mount.root / "file")
    pid = mount.kill_worker()
    slow.proxy.heal()
    mount.wait_for_successor(pid)
    mount.wait_idle()
    out, err = reader.communicate(timeout=30)
    # It opened the version before, of which nothing was here.
    assert out == b"", "bytes of a version that was not opened"
    assert b"Stale file handle" in err or died(err)
    assert (mount.root / "file").read_bytes() == new
    wait_for(lambda: ended(pid), what="the end of all that was left")


def test_a_name_in_a_directory_that_is_being_changed(
    slow: Slow, volume: TestMount, engine: str
) -> None:
    mount = mounted(volume, ENGINES[engine])
    directory = mount.root / "dir"
    remover, looker = slow.lock(directory)
    pid = kill_stuck(mount, slow)
    _, err = looker.communicate(timeout=30)
    assert b"FileNotFoundError" in err or died(err)
    _, err = remover.communicate(timeout=30)
    assert err == b"" or died(err)
    if engine != "libfuse":
        assert os.listdir(directory) == []
    wait_for(lambda: ended(pid), what="the end of all that was left")


@pytest.mark.parametrize("then", ["emptied", "closed"])
def test_a_write_that_waits_for_the_worker_keeps_nobody_from_work(
    slow: Slow, volume: TestMount, then: str
) -> None:
    """It has the lock of the file that it writes to, which the kernel does without the worker, and
    waits for a page of another file, which the worker has to bring."""
    new = os.urandom(SIZE)
    slow.put("source", new)
    mount = mounted(volume, [])
    source, target = mount.root / "source", mount.root / "target"
    target.write_bytes(b"before")
    mount.wait_idle()
    assert source.stat().st_size == SIZE
    delay = slow.proxy.inject(Delay(3), kind="GetObject", path="/source")
    writer = slow.run(WRITE, source, target, *(["close"] if then == "closed" else []))
    wait_for(lambda: delay.hits, what="the read")
    emptier = slow.run(EMPTY, target) if then == "emptied" else None
    out, err = writer.communicate(timeout=30)
    assert (out, err, writer.returncode) == (b"goes on\n", b"", 0)
    if emptier is not None:
        assert emptier.communicate(timeout=30) == (b"", b"")
        assert target.read_bytes() in (new[:4096], b"")
    else:
        assert target.read_bytes() == new[:4096]
    mount.umount()
    assert slow.server.admin.get(slow.bucket, "target") in (new[:4096], b"")


def test_a_write_that_waits_for_another_volume_holds_only_its_own_program_up(
    slow: Slow, volume: TestMount, make_mount: MakeMount
) -> None:
    slow.put("source", bytes(SIZE))
    mount = mounted(volume, [])
    other = make_mount(name="other").mount()
    source, target = mount.root / "source", other.root / "target"
    target.write_bytes(b"before")
    other.wait_idle()
    assert source.stat().st_size == SIZE
    hole = slow.proxy.inject(Blackhole(), kind="GetObject", path="/source")
    writer = slow.run(WRITE, source, target, "close")
    wait_for(lambda: hole.hits, what="the read")
    # The other descriptor is closed, and its file to be uploaded, half a second later.
    for _ in range(30):
        assert other.ask_status()["pid"] == other.worker_pid()
        time.sleep(0.05)
    slow.proxy.heal()
    out, err = writer.communicate(timeout=60)
    assert (out, err, writer.returncode) == (b"goes on\n", b"", 0)
    assert target.read_bytes()[:4096] == bytes(4096)


def test_a_kernel_that_does_not_resend(slow: Slow, volume: TestMount) -> None:
    """What was under way waits on, and nothing else with it."""
    slow.put("other", b"other")
    mount = mounted(volume, MODES["none"])
    remover, _looker = slow.lock(mount.root / "dir")
    pid = kill_stuck(mount, slow)
    assert (mount.root / "other").read_bytes() == b"other"
    assert remover.poll() is None
    mount.umount("--force")
    remover.communicate(timeout=30)
    wait_for(lambda: ended(pid), what="the end of all that was left")
