"""As :mod:`tests.integration.mount.test_stuck`, under the node service."""

from __future__ import annotations

import os

import pytest

from tests.integration.node.loads import s3_store
from tests.support.mounts import wait_for
from tests.support.nodes import TestNode
from tests.support.servers import S3Server
from tests.support.stuck import Slow, ended, waits_for_ever

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.mark.parametrize("alone", [True, False], ids=["worker", "node-and-worker"])
def test_what_is_left_of_a_killed_worker_holds_nobody_up(
    node: TestNode, versitygw: S3Server, disabled: list[str], alone: bool
) -> None:
    with Slow(versitygw) as slow:
        path = node.publish(
            "volume",
            "pod",
            f"s3://{slow.bucket}",
            options={"metadata_ttl": 0},
            store=s3_store(versitygw, endpoint=slow.proxy.endpoint),
            fuse={"disable": disabled},
        )
        remover, looker = slow.lock(path / "dir")
        (pid,) = node.workers()
        wait_for(lambda: waits_for_ever(pid), what="an invalidation that waits")
        node.kill_workers()
        slow.proxy.heal()
        if not alone:
            node.kill()
            node.start()
        assert b"FileNotFoundError" in looker.communicate(timeout=30)[1]
        assert remover.communicate(timeout=30) == (b"", b"")
        assert os.listdir(path / "dir") == []
        wait_for(lambda: ended(pid), what="the end of all that was left")
        node.unpublish("volume", "pod")
