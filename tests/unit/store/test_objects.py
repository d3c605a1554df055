"""What S3 is told of the objects that are written, and of who pays."""

from __future__ import annotations

import pytest

from csi_slayer import __version__
from csi_slayer.store.options import ObjectOptions
from csi_slayer.store.s3.address import locate
from csi_slayer.store.s3.credentials import SignedBy
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.request import Pairs, RequestWriter, S3Request

ALL = ObjectOptions("STANDARD_IA", "aws:kms", "key", requester_pays=True, owner="123456789012")
WRITING = {
    "x-amz-storage-class": "STANDARD_IA",
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": "key",
}
ALWAYS = {"x-amz-request-payer": "requester", "x-amz-expected-bucket-owner": "123456789012"}


def sent(objects: ObjectOptions, op: str, headers: Pairs = ()) -> dict[str, str]:
    writer = RequestWriter(locate("bucket", "", None, "us-east-1", None), objects)
    head = writer.head(S3Request(op, "PUT", "key", (), headers), None).decode()
    lines = [line.split(": ", 1) for line in head.split("\r\n")[1:-2]]
    names = [name for name, _ in lines]
    assert len(set(names)) == len(names)
    return {name: value for name, value in lines if name.startswith("x-amz-")}


@pytest.mark.parametrize("op", ["PutObject", "CopyObject", "CreateMultipartUpload"])
def test_what_makes_an_object(op: str) -> None:
    assert sent(ALL, op) == WRITING | ALWAYS
    assert sent(ObjectOptions(), op) == {}
    source = {"x-amz-storage-class": "ONEZONE_IA"}
    assert sent(ObjectOptions(), op, list(source.items())) == source
    assert sent(ALL, op, list(source.items())) == WRITING | ALWAYS, "what was asked for"


@pytest.mark.parametrize("op", ["GetObject", "HeadObject", "UploadPart", "ListObjectsV2",
                                "CompleteMultipartUpload", "DeleteObject"])  # fmt: skip
def test_other_requests(op: str) -> None:
    assert sent(ALL, op) == ALWAYS


def test_a_bucket_that_is_made_is_nobodys_yet() -> None:
    assert sent(ALL, "CreateBucket") == {}


def test_it_is_signed() -> None:
    writer = RequestWriter(locate("bucket", "", None, "us-east-1", None), ALL)
    signed_by = SignedBy(AccessKeys("id", "secret", None), "us-east-1")
    head = writer.head(S3Request("PutObject", "PUT", "key", body=b"x"), signed_by).decode()
    (line,) = (line for line in head.split("\r\n") if line.startswith("authorization: "))
    names = line.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert names == sorted(names)
    assert {*WRITING, *ALWAYS} <= set(names)


def test_an_access_log_says_who_asked() -> None:
    """Signed it would be refused where a proxy changes it."""
    writer = RequestWriter(locate("bucket", "", None, "us-east-1", None))
    signed_by = SignedBy(AccessKeys("id", "secret", None), "us-east-1")
    head = writer.head(S3Request("GetObject", "GET", "key"), signed_by).decode()
    assert f"\r\nuser-agent: slayerfs/{__version__}\r\n" in head
    assert "user-agent;" not in head
