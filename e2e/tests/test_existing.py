"""Buckets that were there before: PersistentVolumes made by hand."""

from __future__ import annotations

import pytest

from e2e.tests.support.fill import fill
from e2e.tests.support.objects import of_claim, static_volume
from e2e.tests.support.space import Space

FILES = 10_000
PER_DIRECTORY = 500


@pytest.fixture
def dataset(space: Space) -> str:
    """A bucket with FILES small objects. It goes with the cluster: deleting takes long."""
    bucket = space.unique("dataset")
    space.s3().create_bucket(bucket)
    keys = (f"images/d{n // PER_DIRECTORY:03d}/f{n:06d}" for n in range(FILES))
    contents = (f"content {n}\n".encode() for n in range(FILES))
    fill(space.environment, "versitygw", bucket, zip(keys, contents, strict=True))
    return bucket


def test_many_files_of_an_existing_bucket_are_read_and_not_touched(
    space: Space, dataset: str
) -> None:
    attributes = {"bucket": dataset, "prefix": "images/", "readOnly": "true"}
    name = space.unique("images")
    space.apply(
        *static_volume(
            name, space.name, attributes, mode="ReadOnlyMany", read_only=True,
            class_name="slayerfs-dataset",
        )
    )  # fmt: skip
    space.pod("one", {"/data": of_claim(name, read_only=True)})
    space.pod("two", {"/data": of_claim(name)})
    space.ready("one")
    space.ready("two")
    assert space.sh("one", "find /data -type f | wc -l").strip() == str(FILES)
    content = "cat /data/d003/* | sha256sum; cat /data/d019/f009999"
    assert space.sh("one", content) == space.sh("two", content)
    assert space.sh("two", "cat /data/d019/f009999") == "content 9999\n"
    for pod in ("one", "two"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            space.sh(pod, "rm /data/d000/f000000")
    space.remove("Pod", "one")
    space.remove("Pod", "two")
    space.remove("PersistentVolumeClaim", name)
    assert len(space.s3().keys(dataset, "images/")) == FILES
    # Not even a record of the driver.
    assert space.s3().keys(dataset, ".slayerfs") == []
