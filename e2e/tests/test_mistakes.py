"""Mistakes of users: the pod's events say what is wrong, and mending it is enough."""

from __future__ import annotations

from e2e.tests.support.objects import of_claim, static_volume
from e2e.tests.support.space import Space

WRONG = "wrong-secret-that-nobody-may-see"


def test_a_wrong_secret_is_named_and_mended(space: Space) -> None:
    bucket, name = space.unique("bucket"), space.unique("volume")
    space.s3().create_bucket(bucket)
    space.secret("keys", secret=WRONG)
    space.apply(*static_volume(name, space.name, {"bucket": bucket}, secret="keys"))
    space.pod("pod", {"/data": of_claim(name)})
    space.not_mounted("pod", name, "the secret key does not fit the access key")
    space.secret("keys")
    space.ready("pod")
    space.sh("pod", "echo works > /data/file")
    assert space.s3().get(bucket, "file") == b"works\n"
    told = [event["message"] for event in space.api.events(space.name, "pod")]
    assert not [text for text in told if WRONG in text]
    space.remove("Pod", "pod")
    space.s3().delete_bucket(bucket)


def test_a_missing_bucket_is_named_and_made(space: Space) -> None:
    bucket, name = space.unique("bucket"), space.unique("volume")
    space.apply(*static_volume(name, space.name, {"bucket": bucket}))
    space.pod("pod", {"/data": of_claim(name)})
    space.not_mounted("pod", name, f"bucket {bucket!r} does not exist")
    space.s3().create_bucket(bucket)
    space.ready("pod")
    space.sh("pod", "echo works > /data/file")
    assert space.s3().keys(bucket) == ["file"]
    space.remove("Pod", "pod")
    space.s3().delete_bucket(bucket)


def test_a_misspelt_parameter_is_named_with_the_right_one(space: Space) -> None:
    class_name = space.storage_class("misspelt", {"durabilty": "close"})
    space.claim(class_name=class_name)
    space.event("data", "durabilty", "durability")


def test_a_misspelt_key_of_a_secret_is_named_with_the_right_one(space: Space) -> None:
    bucket, name = space.unique("bucket"), space.unique("volume")
    space.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "keys"},
            "stringData": {"acces_key_id": "AKIA", "secret_access_key": WRONG},
        }
    )
    space.apply(*static_volume(name, space.name, {"bucket": bucket}, secret="keys"))
    space.pod("pod", {"/data": of_claim(name)})
    message = space.not_mounted("pod", name, "acces_key_id", "access_key_id")
    assert WRONG not in message
