"""What is in the store when a call returns, and what is left after a death or a remount."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Delay
from tests.support.mounts import TestMount, wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_policy_close(make_mount: MakeMount, objects: Path, capabilities: list[str]) -> None:
    mount = make_mount(options=["volume.durability=close", *capabilities]).mount()
    with (mount.root / "f").open("wb", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert (objects / "f").read_bytes() == b"one"
        file.write(b"two")
    assert (objects / "f").read_bytes() == b"onetwo"


def test_policy_fsync(make_mount: MakeMount, objects: Path, capabilities: list[str]) -> None:
    mount = make_mount(options=["volume.durability=fsync", *capabilities]).mount()
    with (mount.root / "f").open("wb", buffering=0) as file:
        file.write(b"one")
        os.fsync(file.fileno())
        assert (objects / "f").read_bytes() == b"one"
        file.write(b"two")
    wait_for(lambda: (objects / "f").read_bytes() == b"onetwo")


def test_policy_writeback_does_not_wait_for_the_store(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = versitygw.create_bucket()
    with FaultProxy(versitygw.endpoint) as proxy:
        volume = mounted_for_writeback(versitygw, bucket, tmp_path, proxy, request)
        assert os.listdir(volume.root) == []
        proxy.go_away()
        for number in range(20):
            with (volume.root / f"f{number}").open("wb", buffering=0) as file:
                file.write(b"%d" % number)
                os.fsync(file.fileno())
        (volume.root / "f1").rename(volume.root / "g1")
        assert (volume.root / "g1").read_bytes() == b"1"
        assert versitygw.admin.keys(bucket) == []
        proxy.come_back()
        volume.wait_idle()
        expected = {f"f{number}": b"%d" % number for number in range(20) if number != 1}
        expected["g1"] = b"1"
        found = {k: versitygw.admin.get(bucket, k) for k in versitygw.admin.keys(bucket)}
        assert found == expected
        volume.umount()


def test_writeback_survives_the_death_of_worker_and_supervisor(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = versitygw.create_bucket()
    with FaultProxy(versitygw.endpoint) as proxy:
        volume = mounted_for_writeback(versitygw, bucket, tmp_path, proxy, request)
        assert os.listdir(volume.root) == []  # known from now on: new names need no question
        proxy.go_away()
        written = {f"f{number}": os.urandom(1000 * number) for number in range(1, 30)}
        for name, data in written.items():
            (volume.root / name).write_bytes(data)
        kill_all(volume)
        proxy.come_back()
        volume.mount()
        assert {name: (volume.root / name).read_bytes() for name in written} == written
        volume.wait_idle()
        found = {key: versitygw.admin.get(bucket, key) for key in written}
        assert found == written
        volume.umount()


def test_close_waits_for_a_store_that_is_slow_but_gets_on(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket, data = versitygw.create_bucket(), os.urandom(60 << 20)
    with FaultProxy(versitygw.endpoint) as proxy:
        proxy.inject(Delay(3.0), kind="UploadPart")
        volume = s3_volume(
            versitygw, bucket, tmp_path, endpoint=proxy.endpoint,
            options=["volume.part_size=5MiB", "volume.io_timeout=5s"],
        )  # fmt: skip
        request.addfinalizer(volume.close)
        path = volume.mount().root / "f"
        path.write_bytes(data)
        assert versitygw.admin.get(bucket, "f") == data
        volume.umount()


def mounted_for_writeback(
    server: S3Server, bucket: str, base: Path, proxy: FaultProxy, request: pytest.FixtureRequest
) -> TestMount:
    """A mounted volume whose store can go away, closed at the end of the test."""
    volume = s3_volume(
        server, bucket, base, endpoint=proxy.endpoint,
        options=["volume.durability=writeback", "volume.io_timeout=5s"],
    )  # fmt: skip
    request.addfinalizer(volume.close)
    return volume.mount()


def kill_all(volume: TestMount) -> None:
    """kill -9 of supervisor and worker; what is left of the mount is detached."""
    supervisor, worker = volume.entry()["supervisor"], volume.worker_pid()
    for pid in (supervisor, worker):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(_runs(pid) for pid in (supervisor, worker)), what="both to end")
    detach(volume)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def detach(volume: TestMount) -> None:
    subprocess.run(["umount", "--lazy", str(volume.root)], check=True, timeout=20)


def test_a_remount_keeps_the_cache(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = versitygw.create_bucket()
    with FaultProxy(versitygw.endpoint) as proxy:
        volume = s3_volume(versitygw, bucket, tmp_path, endpoint=proxy.endpoint)
        request.addfinalizer(volume.close)
        volume.mount()
        written = {f"f{number}": os.urandom(60_000 * number) for number in range(1, 20)}
        for name, data in written.items():
            (volume.root / name).write_bytes(data)
        volume.wait_idle()
        volume.umount()
        volume.mount()
        proxy.reset_counts()
        assert {name: (volume.root / name).read_bytes() for name in written} == written
        assert proxy.count("GetObject") == 0
        volume.umount()
