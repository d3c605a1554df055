"""kill -9 in the middle of a copy or deletion: another process goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from csi_slayer.config.driver import DriverConfig
from csi_slayer.config.store import REVEAL_SECRETS
from csi_slayer.volumes.rounds import PAGE
from tests.integration.volumes.filling import many
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Blackhole
from tests.support.mounts import wait_for
from tests.unit.volumes.world import create, persistently

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

COUNT = 1600
"""More than a page of a copy."""
PATIENCE = 120.0
"""Seconds within which another process must have got halfway."""
LEASE = 2.0
"""Seconds for which the next process waits, to know that the first is dead."""
HELD = 60.0
"""Seconds of the first one's lease: on a busy machine it must not run out before the kill."""

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


def kill_in_the_middle(config: DriverConfig, bucket: str, what: str, kind: str, done: int) -> None:
    """Make a call in another process, let so many of its requests of this kind through and no
    other, and kill it when there are no answers to wait for but of those that never come."""
    assert config.store.endpoint is not None
    with FaultProxy(config.store.endpoint) as proxy:
        proxy.inject(Blackhole(), kind=kind, skip=done)
        store = config.store.model_copy(update={"endpoint": proxy.endpoint})
        spec = config.model_copy(update={"store": store}).model_dump_json(
            context={REVEAL_SECRETS: True}
        )
        with subprocess.Popen(
            [sys.executable, "-c", CALL, str(HELD), what, bucket],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        ) as process:
            try:
                assert process.stdin is not None
                with process.stdin as stdin:
                    stdin.write(spec.encode())
                proxy.wait_for(done + 1, kind, timeout=PATIENCE)
                answered = proxy.seen(kind)[:done]
                wait_for(lambda: all(it.status for it in answered), PATIENCE, "their answers")
            finally:
                process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended by itself"


def test_a_deletion_goes_on(run, make, config, s3_server, bucket):
    async def scenario():
        p = make(config, lease=LEASE)
        _, record = await persistently(lambda: create(p, "v"))
        await many(config, bucket, record.prefix, COUNT)
        await many(config, bucket, "v-neighbour/", 3)
        call = (kill_in_the_middle, config, bucket, "delete", "DeleteObjects", 1)
        await asyncio.to_thread(*call)
        assert 0 < len(s3_server.admin.keys(bucket, record.prefix)) < COUNT
        await persistently(lambda: p.delete_volume(f"slayer1:{bucket}:v", {}))
        keys = s3_server.admin.keys(bucket)
        assert len(keys) == 3 and all(key.startswith("v-neighbour/") for key in keys)

    run(scenario())


@pytest.mark.parametrize("what", ["clone", "snapshot"])
def test_a_copy_goes_on(run, make, config, s3_server, bucket, what):
    async def scenario():
        p = make(config, lease=LEASE)
        volume, record = await persistently(lambda: create(p, "v"))
        await many(config, bucket, record.prefix, COUNT)
        prefix = {"clone": "c/", "snapshot": ".slayerfs/snapshots/s/data/"}[what]
        call = (kill_in_the_middle, config, bucket, what, "CopyObject", PAGE + 100)
        await asyncio.to_thread(*call)
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
