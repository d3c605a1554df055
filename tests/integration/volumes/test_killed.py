"""kill -9 in the middle of a copy or deletion: another process goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from csi_slayer.config.driver import DriverConfig
from csi_slayer.config.store import REVEAL_SECRETS
from tests.integration.volumes.filling import many
from tests.support.servers import S3Server
from tests.unit.volumes.world import create, persistently

pytestmark = pytest.mark.integration

COUNT = 1600
"""More than a page of a copy."""
LEASE = 2.0
"""Seconds for which the next process waits, to know that the first is dead."""

CALL = """
import asyncio, sys
from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.provisioner import Provisioner
from tests.unit.volumes.world import create, make_session

async def main():
    config = DriverConfig.model_validate_json(sys.stdin.read())
    p = Provisioner(config, make_session(config, lease=float(sys.argv[1]), wait=600))
    what, bucket = sys.argv[2:]
    if what == "delete":
        await p.delete_volume(f"slayer1:{bucket}:v", {})
    elif what == "clone":
        await create(p, "c", source=f"slayer1:{bucket}:v")
    else:
        await p.create_snapshot("s", f"slayer1:{bucket}:v", {}, {})

asyncio.run(main())
"""


def kill_in_the_middle(
    config: DriverConfig, bucket: str, what: str, halfway: Callable[[], bool]
) -> None:
    """Make a call in another process and kill that once ``halfway`` says so."""
    spec = config.model_dump_json(context={REVEAL_SECRETS: True})
    process = subprocess.Popen(
        [sys.executable, "-c", CALL, str(LEASE), what, bucket],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(spec.encode())
    while process.poll() is None and not halfway():
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"


def begun(server: S3Server, bucket: str, prefix: str) -> Callable[[], bool]:
    """Whether there are some objects below a prefix."""
    client = server.admin.client
    return lambda: client.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] > 30


def test_a_deletion_goes_on(run, make, config, s3_server, bucket):
    async def scenario():
        p = make(config, lease=LEASE)
        _, record = await create(p, "v")
        await many(config, bucket, record.prefix, COUNT)
        await many(config, bucket, "v-neighbour/", 3)
        client = s3_server.admin.client

        def fewer() -> bool:
            key = f"{record.prefix}d0/00000"
            return not client.list_objects_v2(Bucket=bucket, Prefix=key)["KeyCount"]

        await asyncio.to_thread(kill_in_the_middle, config, bucket, "delete", fewer)
        await persistently(lambda: p.delete_volume(f"slayer1:{bucket}:v", {}))
        keys = s3_server.admin.keys(bucket)
        assert len(keys) == 3 and all(key.startswith("v-neighbour/") for key in keys)

    run(scenario())


@pytest.mark.parametrize("what", ["clone", "snapshot"])
def test_a_copy_goes_on(run, make, config, s3_server, bucket, what):
    async def scenario():
        p = make(config, lease=LEASE)
        volume, record = await create(p, "v")
        await many(config, bucket, record.prefix, COUNT)
        prefix = {"clone": "c/", "snapshot": ".slayerfs/snapshots/s/data/"}[what]
        halfway = begun(s3_server, bucket, f"{prefix}d5/")
        await asyncio.to_thread(kill_in_the_middle, config, bucket, what, halfway)
        client = s3_server.admin.client
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        first = next(item for item in page if item["Key"] != prefix)
        if what == "clone":
            await persistently(lambda: create(p, "c", source=str(volume)))
        else:
            _, made = await persistently(lambda: p.create_snapshot("s", str(volume), {}, {}))
            assert (made.objects, made.size_bytes) == (COUNT, COUNT)
        # The pages that had been copied were not copied again.
        page = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
        assert first in page
        copied = [k.removeprefix(prefix) for k in s3_server.admin.keys(bucket, prefix)]
        original = [k.removeprefix("v/") for k in s3_server.admin.keys(bucket, "v/")]
        assert [key for key in copied if key] == [key for key in original if key]
        for name in ("v", "c"):
            await persistently(lambda n=name: p.delete_volume(f"slayer1:{bucket}:{n}", {}))
        await persistently(lambda: p.delete_snapshot(f"snap1:{bucket}:s", {}))
        assert s3_server.admin.keys(bucket) == []

    run(scenario())
