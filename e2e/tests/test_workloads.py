"""Controllers of pods: what Deployments and StatefulSets do to their volumes."""

from __future__ import annotations

from typing import Any

from e2e.tests.support import objects
from e2e.tests.support.api import Object
from e2e.tests.support.space import Contents, Space

# Each pod adds its line to what those before it left, and is ready when it has.
WORK = 'echo "$VERSION $HOSTNAME" >> /data/versions; ' + objects.SLEEP[2]
HAS_WORKED = ["sh", "-c", 'grep -q "$HOSTNAME" /data/versions']


def deployment(space: Space, version: str) -> Object:
    spec = objects.pod_spec(
        space.environment.images["busybox"],
        {"/data": objects.of_claim("data")},
        ("sh", "-c", WORK),
        container={
            "env": [{"name": "VERSION", "value": version}],
            "readinessProbe": {
                "exec": {"command": HAS_WORKED},
                "periodSeconds": 2,
                "timeoutSeconds": 10,  # of the default's one second a busy node needs all
            },
        },
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": spec},
        },
    }


def test_a_deployment_rolls_over_on_a_shared_volume(space: Space) -> None:
    space.claim()

    def roll(version: str) -> None:
        space.apply(deployment(space, version))

        def complete(seen: Object | None) -> bool:
            if (
                seen is None
                or seen["status"].get("observedGeneration") != (seen["metadata"]["generation"])
            ):
                return False
            names = ("replicas", "updatedReplicas", "availableReplicas")
            return all(seen["status"].get(name) == 2 for name in names)

        space.api.wait("Deployment", "web", space.name, complete, f"rolled to {version}")

    roll("v1")
    roll("v2")
    pods = space.api.list_all("Pod", space.name, "app=web")
    alive = [p["metadata"]["name"] for p in pods if not p["metadata"].get("deletionTimestamp")]
    lines = space.sh(alive[0], "cat /data/versions").splitlines()
    assert sorted(line.split()[0] for line in lines) == ["v1", "v1", "v2", "v2"]
    assert Contents.of(space, space.bound()).keys() == ["versions"]


def stateful_set(space: Space) -> Object:
    command = ("sh", "-c", f"hostname >> /data/log; {objects.SLEEP[2]}")
    spec: dict[str, Any] = objects.pod_spec(space.environment.images["busybox"], {}, command)
    spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "store"},
        "spec": {
            "serviceName": "store",
            "replicas": 2,
            "podManagementPolicy": "Parallel",
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
            "selector": {"matchLabels": {"app": "store"}},
            "template": {"metadata": {"labels": {"app": "store"}}, "spec": spec},
            "volumeClaimTemplates": [objects.claim("data", "slayerfs", "1Gi", "ReadWriteOncePod")],
        },
    }


def test_each_replica_of_a_stateful_set_keeps_its_volume(space: Space) -> None:
    space.apply(stateful_set(space))
    for pod in ("store-0", "store-1"):
        space.ready(pod)
        assert space.written(pod, "/data/log").split() == [pod]
    old = space.api.get("Pod", "store-0", space.name)
    assert old is not None
    space.api.delete("Pod", "store-0", space.name)
    space.api.wait(
        "Pod", "store-0", space.name,
        lambda seen: seen is not None and seen["metadata"]["uid"] != old["metadata"]["uid"],
        "made again",
    )  # fmt: skip
    space.ready("store-0")
    assert space.written("store-0", "/data/log", 2).split() == ["store-0", "store-0"]
    assert space.sh("store-1", "cat /data/log").split() == ["store-1"]
    prefixes = {Contents.of(space, space.bound(f"data-store-{n}")).prefix for n in (0, 1)}
    assert len(prefixes) == 2
