"""The identity of the pod's service account, by its token and MinIO's STS: nobody keeps a key."""

from __future__ import annotations

from e2e.tests.support.objects import inline, of_claim, static_volume
from e2e.tests.support.space import Space


def test_a_pod_reads_and_writes_with_its_service_account(space: Space) -> None:
    admin, bucket = space.s3("minio"), space.unique("own")
    admin.create_bucket(bucket)
    admin.put(bucket, "file", b"for whom the role lets in\n")
    endpoint = space.environment.s3["minio"]
    attributes = {
        "bucket": bucket,
        "endpoint": endpoint,
        "authentication": "pod",
        "roleArn": space.environment.minio_role,
        "stsEndpoint": endpoint,
    }
    volume = space.unique("volume")
    space.apply(*static_volume(volume, space.name, attributes))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "analyst"}}
    space.apply(account)
    space.pod("inline", {"/data": inline(attributes)}, serviceAccountName="analyst")
    space.pod("claim", {"/data": of_claim(volume)}, serviceAccountName="analyst")
    for pod in ("inline", "claim"):
        space.ready(pod)
        assert space.sh(pod, "cat /data/file") == "for whom the role lets in\n"
        space.sh(pod, f"echo {pod} > /data/from-{pod}")
    assert admin.get(bucket, "from-inline") == b"inline\n"
    assert admin.get(bucket, "from-claim") == b"claim\n"
    assert space.sh("claim", "cat /data/from-inline") == "inline\n"
    space.remove("Pod", "inline")
    space.remove("Pod", "claim")
    admin.delete_bucket(bucket)
