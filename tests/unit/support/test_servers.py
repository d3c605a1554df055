"""The S3 servers of the tests themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers import S3Server, start_server

pytestmark = pytest.mark.integration


def test_keeps_objects_exactly(s3_server: S3Server, bucket: str) -> None:
    admin = s3_server.admin
    etag = admin.put(bucket, "a/b c+d%/ü", b"content", {"mode": "0644"})
    head = admin.head(bucket, "a/b c+d%/ü")
    assert head is not None
    assert (head["ETag"], head["ContentLength"], head["Metadata"]) == (etag, 7, {"mode": "0644"})
    assert admin.get(bucket, "a/b c+d%/ü") == b"content"
    assert admin.keys(bucket) == ["a/b c+d%/ü"]
    assert admin.head(bucket, "absent") is None
    with pytest.raises(KeyError):
        admin.get(bucket, "absent")


def test_deletes_a_bucket_with_content_and_pending_uploads(s3_server: S3Server) -> None:
    bucket = s3_server.create_bucket()
    s3_server.admin.put(bucket, "key", b"x")
    s3_server.admin.client.create_multipart_upload(Bucket=bucket, Key="pending")
    assert s3_server.admin.uploads(bucket) == ["pending"]
    s3_server.admin.delete_bucket(bucket)
    s3_server.admin.delete_bucket(bucket)
    names = [item["Name"] for item in s3_server.admin.client.list_buckets()["Buckets"]]
    assert bucket not in names


@pytest.mark.parametrize("name", ["versitygw", "minio"])
def test_survives_a_crash_at_the_same_endpoint(name: str, tmp_path: Path) -> None:
    server = start_server(name, tmp_path)  # type: ignore[arg-type]
    try:
        bucket = server.create_bucket("crash")
        server.admin.put(bucket, "key", b"before")
        server.kill()
        assert server.process is None
        server.start()
        assert server.admin.get(bucket, "key") == b"before"
    finally:
        server.stop()
