"""Snapshots, volumes from them, clones."""

from __future__ import annotations

from typing import Any

from e2e.tests.support.api import Object
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Contents, Space


def snapshot(name: str, claim: str) -> Object:
    return {
        "apiVersion": "snapshot.storage.k8s.io/v1",
        "kind": "VolumeSnapshot",
        "metadata": {"name": name},
        "spec": {
            "volumeSnapshotClassName": "slayerfs",
            "source": {"persistentVolumeClaimName": claim},
        },
    }


def is_usable(seen: Object | None) -> bool:
    return bool(seen and (seen.get("status") or {}).get("readyToUse"))


def test_snapshot_restore_and_clone(space: Space) -> None:
    space.claim()
    space.running("pod", "data")
    space.sh("pod", "mkdir /data/d; for i in $(seq 50); do echo $i > /data/d/$i; done")
    space.sh("pod", "dd if=/dev/urandom of=/data/large bs=1M count=12 2>/dev/null")
    space.apply(snapshot("monday", "data"))
    seen = space.api.wait("VolumeSnapshot", "monday", space.name, is_usable, "ready to use")
    assert seen is not None
    contents = Contents.of(space, space.bound())
    then = contents.digests()

    space.sh("pod", "echo later > /data/d/1; rm /data/d/2; echo new > /data/new")
    # A clone is of what S3 has; a removal is in the journal first.
    poll(contents.keys, lambda keys: "d/2" not in keys, "d/2 stays in S3")
    source: dict[str, Any] = {"kind": "VolumeSnapshot", "name": "monday"}
    space.claim("restored", dataSource=source | {"apiGroup": "snapshot.storage.k8s.io"})
    space.claim("clone", dataSource={"kind": "PersistentVolumeClaim", "name": "data"})
    restored = Contents.of(space, space.bound("restored"))
    clone = Contents.of(space, space.bound("clone"))
    assert restored.digests() == then
    assert clone.digests() == contents.digests()

    space.pod("of-restored", "restored")
    space.pod("of-clone", "clone")
    space.ready("of-restored")
    space.ready("of-clone")
    assert space.sh("of-restored", "cat /data/d/1 /data/d/2; ls /data/d | wc -l").split() == [
        "1", "2", "50",
    ]  # fmt: skip
    assert space.sh("of-clone", "cat /data/d/1 /data/new; ls /data/d | wc -l").split() == [
        "later", "new", "49",
    ]  # fmt: skip
    # They are volumes of their own.
    space.sh("of-clone", "echo mine > /data/d/1")
    assert space.sh("pod", "cat /data/d/1") == "later\n"

    content = seen["status"]["boundVolumeSnapshotContentName"]
    space.remove("VolumeSnapshot", "monday")
    gone = space.api.wait(
        "VolumeSnapshotContent", content, None, lambda found: found is None, "deleted"
    )
    assert gone is None
    left = restored.admin.keys(restored.bucket, ".slayerfs/snapshots/")
    uid = seen["metadata"]["uid"]
    assert not [key for key in left if uid in key]
    assert space.sh("of-restored", "cat /data/d/1") == "1\n"
