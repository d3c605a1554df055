"""kill -9 of the worker at random instants, under a load that checks itself."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.s3volumes import s3_volume
from tests.support.load import big_file
from tests.support.mounts import TestMount
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

SECONDS = 10.0


def run_load_and_kill(mount: TestMount, seed: int) -> tuple[dict[str, str], int]:
    """The files that must be there afterwards, and how often the worker was killed."""
    rng = random.Random(seed)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.load", str(mount.root), str(SECONDS), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kills = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end - 1 and process.poll() is None:
        time.sleep(rng.uniform(0.05, 1.2))
        mount.kill_worker()
        kills += 1
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    result = json.loads(out)
    print(f"{kills} kills, {result['operations']} rounds")
    return result["files"], kills


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
    files, kills = run_load_and_kill(mount, seed)
    assert kills > 3
    mount.wait_idle()
    assert '"conflict"' not in mount.log
    mount.umount()
    found = {
        str(path.relative_to(objects)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in objects.rglob("*")
        if path.is_file() and not path.relative_to(objects).parts[0].startswith(".slayerfs")
    }
    assert found == files
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
    files, kills = run_load_and_kill(mount.mount(), 101)
    assert kills > 3
    mount.wait_idle()
    assert '"conflict"' not in mount.log
    mount.umount()
    found = {
        key: hashlib.sha256(versitygw.admin.get(bucket, key)).hexdigest()
        for key in versitygw.admin.keys(bucket)
        if not key.endswith("/")
    }
    assert found == files
