"""What doctor says of a real bucket to somebody who may do only a part of what a volume needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.mounts import slayer
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration


def allow_everybody(server: S3Server, bucket: str, actions: list[str]) -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]} if server.name == "minio" else "*",
        "Action": actions,
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    server.admin.client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def lines(server: S3Server, bucket: str, cache: Path, *options: str) -> tuple[int, str]:
    result = slayer(
        "doctor", f"s3://{bucket}", "--endpoint", server.endpoint, "-o", "store.anonymous=true",
        "--cache-dir", str(cache), *options, check=False,
    )  # fmt: skip
    return result.returncode, result.stdout


def test_an_identity_that_may_only_read(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    allow_everybody(s3_server, bucket, ["s3:ListBucket", "s3:GetObject"])
    status, shown = lines(s3_server, bucket, tmp_path)
    assert status == 1, shown
    assert "can be listed" in shown
    assert "objects cannot be written" in shown
    assert "allow the identity s3:PutObject" in shown
    status, shown = lines(s3_server, bucket, tmp_path, "--read-only")
    assert status == 0, shown
    assert s3_server.admin.keys(bucket) == []


def test_an_identity_that_may_not_delete(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    allow_everybody(s3_server, bucket, ["s3:ListBucket", "s3:GetObject", "s3:PutObject"])
    status, shown = lines(s3_server, bucket, tmp_path)
    assert status == 1, shown
    assert "allow the identity s3:DeleteObject" in shown
    left = s3_server.admin.keys(bucket)
    assert left
    assert all(key in shown for key in left)


def test_what_versitygw_lets_nobody_do_without_a_name(versitygw: S3Server, tmp_path: Path) -> None:
    """Copies and uploads in parts, whatever the bucket's policy allows."""
    bucket = versitygw.create_bucket()
    allow_everybody(versitygw, bucket, ["s3:*"])
    status, shown = lines(versitygw, bucket, tmp_path)
    assert status == 1, shown
    assert "objects cannot be copied" in shown
    assert "objects cannot be sent in parts" in shown
    assert versitygw.admin.keys(bucket) == []


def test_an_identity_that_may_do_all(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    keys = {
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    where = ("--endpoint", s3_server.endpoint, "--cache-dir", str(tmp_path))
    shown = slayer("doctor", f"s3://{bucket}", *where, env=keys).stdout
    assert "takes what is written" in shown
    assert s3_server.admin.keys(bucket) == []
    uploads = s3_server.admin.client.list_multipart_uploads(Bucket=bucket)
    assert uploads.get("Uploads", []) == []
