"""Volumes that a pod names itself: they live as long as it does."""

from __future__ import annotations

import pytest

from e2e.install import BUCKET
from e2e.tests.support.objects import inline
from e2e.tests.support.polling import poll
from e2e.tests.support.space import Space

SCRATCH = ".slayerfs/ephemeral/"


def test_scratch_space_goes_with_its_pod(space: Space) -> None:
    admin = space.s3()
    before = set(admin.keys(BUCKET, SCRATCH))
    space.running("pod", {"/scratch": inline()})
    marker = space.name.encode()
    space.sh("pod", f"mkdir /scratch/d; echo -n {space.name} > /scratch/d/file")
    (key,) = [key for key in admin.keys(BUCKET, SCRATCH) if key.endswith("/d/file")]
    assert admin.get(BUCKET, key) == marker
    space.remove("Pod", "pod")
    poll(
        lambda: set(admin.keys(BUCKET, SCRATCH)) - before,
        lambda left: not left,
        "scratch objects are left",
    )


def test_a_bucket_of_a_pods_own_with_its_secret(space: Space) -> None:
    admin, bucket = space.s3(), space.unique("own")
    admin.create_bucket(bucket)
    admin.put(bucket, "in/file", b"there before\n")
    space.secret("keys")
    space.running("pod", {"/data": inline({"bucket": bucket}, "keys")})
    assert space.sh("pod", "cat /data/in/file; cp /data/in/file /data/copy") == "there before\n"
    space.remove("Pod", "pod")
    assert admin.keys(bucket) == ["copy", "in/file"]
    admin.delete_bucket(bucket)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"bucket": BUCKET}, "give a secret"),
        ({"bucket": BUCKET, "authentication": "driver"}, "never has the driver's identity"),
    ],
)
def test_a_pods_author_cannot_use_the_drivers_identity(
    space: Space, attributes: dict[str, str], message: str
) -> None:
    space.pod("pod", {"/data": inline(attributes)})
    space.not_mounted("pod", "v0", message)
