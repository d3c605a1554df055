"""Two things away at once: the node pod and S3, the node pod and its keeper."""

from __future__ import annotations

import pytest

from e2e.tests.support.api import Api
from e2e.tests.support.driver import Driver
from e2e.tests.support.objects import of_claim
from e2e.tests.support.servers import stopped
from e2e.tests.support.space import Contents, Space, restarts

PATIENT = {"ioTimeout": "5m"}


def test_a_node_pod_is_replaced_while_s3_is_away(space: Space, driver: Driver, api: Api) -> None:
    space.claim("sure", class_name=space.storage_class("sure", PATIENT))
    background = space.storage_class("fast", {**PATIENT, "durability": "writeback"})
    space.claim("fast", class_name=background)
    space.running("pod", {f"/{name}": of_claim(name) for name in ("sure", "fast")})
    sure, fast = (Contents.of(space, space.bound(name)) for name in ("sure", "fast"))
    space.sh("pod", "echo old > /sure/old; echo old > /fast/old")
    fast.wait({"old": b"old\n"})
    with stopped(space.environment):
        space.sh("pod", "(echo new > /sure/new && touch /tmp/stored) </dev/null >/tmp/log 2>&1 &")
        space.sh("pod", "echo staged > /fast/staged")
        driver.delete_pods("node")
        assert space.sh("pod", "cat /sure/old /fast/old /fast/staged") == "old\nold\nstaged\n"
        space.sh("pod", "echo later > /fast/later; mv /fast/old /fast/renamed")
        # What S3 does not have is not acknowledged, and is no error either.
        assert space.sh("pod", "cat /tmp/log; test -e /tmp/stored || echo waits") == "waits\n"
    space.sh("pod", "until test -e /tmp/stored; do sleep 0.1; done")
    sure.wait({"old": b"old\n", "new": b"new\n"})
    fast.wait({"renamed": b"old\n", "staged": b"staged\n", "later": b"later\n"})
    pod = api.get("Pod", "pod", space.name)
    assert pod is not None
    assert restarts(pod) == 0


def test_node_pod_and_keeper_gone_together_end_mounts_and_lose_nothing(
    space: Space, driver: Driver, api: Api
) -> None:
    space.claim(class_name=space.storage_class("fast", {**PATIENT, "durability": "writeback"}))
    space.running("pod", "data")
    contents = Contents.of(space, space.bound())
    space.sh("pod", "echo stored > /data/stored")
    contents.wait({"stored": b"stored\n"})
    with stopped(space.environment):
        space.sh("pod", "echo staged > /data/staged")
        with driver.without_keeper():
            driver.delete_pods("node")
    # As the documents say: the pod gets errors and an event that says what to do.
    space.event("pod", "restart the pod", "what was written is not lost")
    assert "MountLost" in [event["reason"] for event in api.events(space.name, "pod")]
    with pytest.raises(AssertionError, match="not connected"):
        space.sh("pod", "cat /data/stored")
    space.remove("Pod", "pod")
    space.running("pod", "data")
    assert space.sh("pod", "cat /data/stored /data/staged") == "stored\nstaged\n"
    space.sh("pod", "echo more > /data/more")
    contents.wait({"stored": b"stored\n", "staged": b"staged\n", "more": b"more\n"})
