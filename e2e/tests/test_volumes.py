"""Claims of the default class: written, shared, grown and deleted."""

from __future__ import annotations

import hashlib

import pytest

from e2e.tests.support.objects import of_claim
from e2e.tests.support.space import Contents, Space, phase_is


def test_what_a_pod_writes_another_reads_and_s3_has_under_native_keys(space: Space) -> None:
    space.claim()
    space.running("writer", "data")
    space.sh("writer", "mkdir -p /data/a/b; echo hello > /data/a/b/greeting; echo x > '/data/ä ö'")
    space.sh("writer", "dd if=/dev/urandom of=/data/large bs=1M count=20 2>/dev/null")
    digest = space.sh("writer", "sha256sum /data/large").split()[0]

    contents = Contents.of(space, space.bound())
    assert contents.keys() == ["a/b/greeting", "large", "ä ö"]
    assert contents.read("a/b/greeting") == b"hello\n"
    assert hashlib.sha256(contents.read("large")).hexdigest() == digest

    space.remove("Pod", "writer")
    space.running("reader", {"/data": of_claim("data", read_only=True)})
    assert space.sh("reader", "cat /data/a/b/greeting; sha256sum /data/large").split() == [
        "hello",
        digest,
        "/data/large",
    ]
    with pytest.raises(AssertionError, match="Read-only file system"):
        space.sh("reader", "echo no > /data/new")


def test_two_pods_share_a_volume(space: Space) -> None:
    space.claim()
    space.pod("one", "data")
    space.pod("two", "data")
    space.ready("one")
    space.ready("two")
    for turn in range(3):
        space.sh("one", f"echo one {turn} >> /data/log")
        space.sh("two", f"echo two {turn} >> /data/log; mv /data/log /data/log.new")
        space.sh("one", "mv /data/log.new /data/log")
    lines = [f"{who} {turn}" for turn in range(3) for who in ("one", "two")]
    assert space.sh("one", "cat /data/log").splitlines() == lines
    assert space.sh("two", "cat /data/log").splitlines() == lines
    # What one pod's end unmounts, the other keeps.
    space.remove("Pod", "one")
    assert space.sh("two", "echo more >> /data/log; wc -l < /data/log").strip() == "7"


def test_a_volume_for_one_pod_is_refused_to_a_second(space: Space) -> None:
    space.claim(mode="ReadWriteOncePod")
    space.running("first", "data")
    space.pod("second", "data")
    space.event("second", "ReadWriteOncePod")
    space.sh("first", "echo 1 > /data/file")
    space.remove("Pod", "first")
    space.ready("second")
    assert space.sh("second", "cat /data/file") == "1\n"


def test_directories_of_a_volume_by_sub_path(space: Space) -> None:
    space.claim()
    for name in ("red", "blue"):
        space.pod(name, "data", mount={"subPath": f"colours/{name}"})
    for name in ("red", "blue"):
        space.ready(name)
        space.sh(name, f"echo {name} > /data/name; mkdir /data/sub; echo x > /data/sub/x")
    contents = Contents.of(space, space.bound())
    assert contents.keys() == [
        "colours/blue/name",
        "colours/blue/sub/x",
        "colours/red/name",
        "colours/red/sub/x",
    ]
    assert contents.read("colours/red/name") == b"red\n"
    assert space.sh("blue", "ls /data").split() == ["name", "sub"]


def test_users_without_rights_write_through_the_pods_group(space: Space) -> None:
    space.claim()
    for name, user in (("one", 1001), ("two", 1002)):
        security = {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": 2000}
        space.pod(name, "data", securityContext=security)
    space.ready("one")
    space.ready("two")
    space.sh("one", "umask 002; mkdir /data/shared; echo one > /data/shared/file")
    assert space.sh("one", "stat -c %g /data /data/shared/file").split() == ["2000", "2000"]
    space.sh("two", "echo two >> /data/shared/file; echo 2 > /data/shared/other")
    assert space.sh("one", "cat /data/shared/file /data/shared/other") == "one\ntwo\n2\n"


def test_a_volume_grows_while_it_is_used(space: Space) -> None:
    space.claim(size="16Mi")
    space.running("pod", "data")

    def write(name: str, megabytes: int) -> str:
        """What dd complains of, but for its count of records."""
        script = f"dd if=/dev/zero of=/data/{name} bs=1M count={megabytes} 2>&1 || true"
        said = space.sh("pod", script).splitlines()
        return "".join(line for line in said if "records" not in line and "bytes" not in line)

    size = "df -mP /data | awk 'END {print $2}'"
    assert space.sh("pod", size).strip() == "16"
    assert "No space left" in write("large", 20) or "quota" in write("large", 20)
    space.sh("pod", "rm -f /data/large")
    change = {"spec": {"resources": {"requests": {"storage": "64Mi"}}}}
    space.patch("PersistentVolumeClaim", "data", change)
    space.api.wait(
        "PersistentVolumeClaim", "data", space.name,
        lambda seen: seen is not None and seen["status"]["capacity"]["storage"] == "64Mi",
        "grown",
    )  # fmt: skip
    assert space.sh("pod", size).strip() == "64"
    assert write("large", 20) == ""
    contents = Contents.of(space, space.bound())
    assert len(contents.read("large")) == 20 << 20


def test_deleting_the_claim_deletes_the_objects(space: Space) -> None:
    space.claim()
    space.running("pod", "data")
    space.sh("pod", "for i in 1 2 3; do mkdir -p /data/d$i; echo $i > /data/d$i/file; done")
    volume = space.bound()
    contents = Contents.of(space, volume)
    assert len(contents.keys()) == 3
    space.remove("Pod", "pod")
    space.remove("PersistentVolumeClaim", "data")
    name = volume["metadata"]["name"]
    space.api.wait("PersistentVolume", name, None, lambda seen: seen is None, "deleted")
    assert contents.all_keys() == []
    records = contents.admin.keys(contents.bucket, ".slayerfs/volumes/")
    assert not [key for key in records if name in key]


def test_a_retained_volume_keeps_its_objects(space: Space) -> None:
    class_name = space.storage_class("retain", {}, reclaimPolicy="Retain")
    space.claim(class_name=class_name)
    space.running("pod", "data")
    space.sh("pod", "echo keep > /data/file")
    volume = space.bound()
    name = volume["metadata"]["name"]
    space.remove("Pod", "pod")
    space.remove("PersistentVolumeClaim", "data")
    space.api.wait("PersistentVolume", name, None, phase_is("Released"), "released")
    contents = Contents.of(space, volume)
    assert contents.read("file") == b"keep\n"
    # An administrator who no longer wants it.
    delete = {"spec": {"persistentVolumeReclaimPolicy": "Delete"}}
    space.api.patch("PersistentVolume", name, delete)
    space.api.wait("PersistentVolume", name, None, lambda seen: seen is None, "deleted")
    assert contents.all_keys() == []
