"""The examples do what they say, where they need no bucket or service of somebody else."""

from __future__ import annotations

from typing import Any

from e2e.install import PROJECT
from e2e.tests.support.space import Contents, Space
from tests.support.helm import objects

EXAMPLES = PROJECT / "deploy" / "examples"


def load(space: Space, name: str) -> list[dict[str, Any]]:
    """An example's objects with images that the cluster has."""

    def adapt(node: Any) -> Any:
        if isinstance(node, list):
            return [adapt(child) for child in node]
        if not isinstance(node, dict):
            return node
        changed = {key: adapt(child) for key, child in node.items()}
        if changed.get("image") == "busybox":
            image = space.environment.images["busybox"]
            changed |= {"image": image, "imagePullPolicy": "Never"}
        return changed

    return [adapt(found) for found in objects((EXAMPLES / f"{name}.yaml").read_text())]


def pods_of(space: Space, kind: str, app: str, count: int) -> list[str]:
    """Names of the pods of a workload, once all are ready."""

    def ready(seen: dict[str, Any] | None) -> bool:
        return (seen or {}).get("status", {}).get("readyReplicas") == count

    space.api.wait(kind, app, space.name, ready, "ready")
    found = space.api.list_all("Pod", space.name, f"app={app}")
    return sorted(pod["metadata"]["name"] for pod in found)


def test_a_claim_a_snapshot_of_it_and_what_is_made_from_both(space: Space) -> None:
    space.apply(*load(space, "claim"))
    space.ready("writer")
    written = space.written("writer", "/data/log")
    # The pod's user has no rights but those of its group.
    assert space.sh("writer", "stat -c %g /data").strip() == "1000"
    # What is read may not be in S3 yet, which is what a snapshot is of.
    Contents.of(space, space.bound("data")).wait({"log": written.encode()})
    snapshot, *claims = load(space, "snapshot")
    space.apply(snapshot)
    space.api.wait(
        "VolumeSnapshot", snapshot["metadata"]["name"], space.name,
        lambda seen: bool((seen or {}).get("status", {}).get("readyToUse")),
        "ready to use",
    )  # fmt: skip
    space.apply(*claims)
    for claim in claims:
        name = claim["metadata"]["name"]
        space.bound(name)
        space.running(name, name)
        assert space.sh(name, "cat /data/log") == written


def test_pods_that_share_a_volume_have_directories_of_their_own(space: Space) -> None:
    space.apply(*load(space, "shared"))
    first, second, _ = pods_of(space, "Deployment", "web", 3)
    space.sh(first, "echo mine > /logs/file")
    assert space.sh(second, "ls /logs").strip() == ""
    space.running("reader", "shared")
    assert space.sh("reader", f"cat /data/logs/{first}/file").strip() == "mine"
    assert space.sh(second, "touch /www/file 2>&1 || echo refused").strip().endswith("refused")


def test_replicas_of_a_stateful_set_have_volumes_of_their_own(space: Space) -> None:
    space.apply(*load(space, "statefulset"))
    for pod in pods_of(space, "StatefulSet", "store", 3):
        assert space.written(pod, "/data/log").split() == [pod]


def test_a_claim_may_name_its_attributes(space: Space) -> None:
    attributes, claim = load(space, "attributes")
    space.apply(attributes, claim)
    space.bound(claim["metadata"]["name"])
    space.running("pod", claim["metadata"]["name"])
    space.sh("pod", "echo hello > /data/file")


def test_scratch_space_is_there_for_one_pod(space: Space) -> None:
    pod, _secret = load(space, "inline")
    spec = pod["spec"]
    # Without the volume whose bucket is somebody's.
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] == "scratch"]
    (container,) = spec["containers"]
    container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] == "scratch"]
    container["command"] = ["sh", "-c", "echo hello > /scratch/file; sleep infinity"]
    space.apply(pod)
    space.ready("inline")
    assert space.written("inline", "/scratch/file") == "hello\n"
