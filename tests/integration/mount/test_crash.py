"""kill -9 of the worker at random instants, under a load that checks itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.support.disturb import hashes, left_names, run_load
from tests.support.load import big_file
from tests.support.mounts import TestMount, wait_for
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

KILLS = 6
"""Of one worker after another: the pause before the next is started is 1.6 s by then."""


def run_load_and_kill(mount: TestMount, seed: int) -> dict[str, str]:
    """The files that must be there afterwards."""

    def kill() -> None:
        pid = mount.kill_worker()
        wait_for(lambda: mount.worker_pid_or_none() != pid, what="its end")

    return run_load(mount.root, seed, kill, times=KILLS, serving=mount.worker_pid_or_none)


@pytest.mark.parametrize("seed", [7, 23])
@pytest.mark.parametrize("durability", ["close", "writeback"])
def test_nobody_notices_a_killed_worker(
    make_mount: MakeMount,
    capabilities: list[str],
    objects: Path,
    durability: str,
    seed: int,
) -> None:
    """Open files go on, requests are answered once, nothing acknowledged is lost."""
    if capabilities:
        # Requests in flight can only be handed over by kernels that resend (6.9 and later).
        capabilities = ["fuse.disable=passthrough,splice,readdirplus,parallel_dirops"]
    (objects / "big").write_bytes(big_file())
    mount = make_mount(options=[*capabilities, f"volume.durability={durability}"]).mount()
    files = run_load_and_kill(mount, seed)
    mount.wait_idle()
    assert mount.ask_status()["restarts"] == KILLS
    assert '"conflict"' not in mount.log
    mount.umount()
    assert hashes(objects) == files
    assert list((objects / "names").iterdir()) == []
    assert [path for path in (objects / ".slayerfs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("durability", ["close", "writeback"])
def test_nobody_notices_over_s3(
    versitygw: S3Server, tmp_path: Path, request: pytest.FixtureRequest, durability: str
) -> None:
    bucket = versitygw.create_bucket()
    versitygw.admin.put(bucket, "big", big_file())
    options = [f"volume.durability={durability}"]
    mount = s3_volume(versitygw, bucket, tmp_path, options=options)
    request.addfinalizer(mount.close)
    files = run_load_and_kill(mount.mount(), 101)
    mount.wait_idle()
    assert mount.ask_status()["restarts"] == KILLS
    assert '"conflict"' not in mount.log
    mount.umount()
    found = {
        key: hashlib.sha256(versitygw.admin.get(bucket, key)).hexdigest()
        for key in versitygw.admin.keys(bucket)
        if not key.endswith("/")
    }
    assert found == files
    assert left_names(versitygw.admin.keys(bucket)) == []
