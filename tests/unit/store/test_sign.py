"""Signatures equal botocore's, whatever the key, query and headers."""

from __future__ import annotations

import datetime
import string
from unittest import mock

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.store.s3.address import locate
from csi_slayer.store.s3.credentials import SignedBy
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.request import RequestWriter, S3Request
from csi_slayer.store.s3.sign import AmzClock, Signer, encode_path, encode_query, hash_payload

NOW = datetime.datetime(2026, 3, 9, 1, 2, 3, tzinfo=datetime.UTC)
STAMP = "20260309T010203Z"

keys = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)
odd_keys = st.sampled_from(
    ["..", "../..", "a//b", "a ", " a", "a/", "%2F", "+", "~", "é/日本", "a\nb"]
)
names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=12)
values = st.text(string.ascii_letters + string.digits + " ;=/%&\t", max_size=30).map(str.strip)
headers = st.dictionaries(names.map("x-amz-meta-{}".format), values, max_size=4)
queries = st.dictionaries(names, keys, max_size=4)


def _botocore(
    method: str,
    url: str,
    given_headers: dict[str, str],
    body: bytes,
    region: str,
    token: str | None,
) -> str:
    request = AWSRequest(method, url, headers=given_headers, data=body)
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        S3SigV4Auth(Credentials("AKIDEXAMPLE", "secret/key+", token), "s3", region).add_auth(
            request
        )
    return str(request.headers["Authorization"])


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=keys | odd_keys,
    query=queries,
    extra=headers,
    body=st.binary(max_size=50),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
    token=st.none() | st.just("session/token=="),
)
def test_authorization_equals_botocores(
    method: str,
    key: str,
    query: dict[str, str],
    extra: dict[str, str],
    body: bytes,
    region: str,
    token: str | None,
) -> None:
    address = locate("bucket", "pre fix/", "http://127.0.0.1:9000", region, None)
    writer = RequestWriter(address)
    signed_by = SignedBy(AccessKeys("AKIDEXAMPLE", "secret/key+", token), region)
    request = S3Request("Op", method, key, list(query.items()), list(extra.items()), body)
    with mock.patch.object(writer.clock, "stamp", return_value=STAMP):
        head = writer.head(request, signed_by).decode("ascii")
    lines = head.split("\r\n")
    target = lines[0].split(" ")[1]
    sent = dict(line.split(": ", 1) for line in lines[1:] if line)
    url = "http://127.0.0.1:9000" + target
    assert sent["authorization"] == _botocore(method, url, extra, body, region, token)
    assert sent["x-amz-date"] == STAMP
    assert sent.get("x-amz-security-token") == token


def test_keys_are_sent_as_they_are() -> None:
    address = locate("b", "p/", "http://h", "us-east-1", None)
    assert address.path("a//b/../c ") == "/b/p/a//b/../c%20"
    assert encode_path("~a-b_c.d/+%") == "~a-b_c.d/%2B%25"
    assert encode_query([("b", "x y"), ("a", "/"), ("a", "")]) == "a=&a=%2F&b=x%20y"


def test_the_key_of_the_day_changes_with_the_day() -> None:
    signer = Signer("AKID", "secret", "us-east-1")
    arguments = ("GET", "/", "", [("host", "h")], hash_payload(b""))
    first = signer.authorization(*arguments, "20260309T235959Z")
    second = signer.authorization(*arguments, "20260310T000000Z")
    assert second == Signer("AKID", "secret", "us-east-1").authorization(
        *arguments, "20260310T000000Z"
    )
    assert first != second


def test_large_bodies_are_not_hashed() -> None:
    assert hash_payload(bytes(1 << 20)) != "UNSIGNED-PAYLOAD"
    assert hash_payload(bytes((1 << 20) + 1)) == "UNSIGNED-PAYLOAD"


def test_the_clock_can_be_shifted() -> None:
    clock = AmzClock()
    with mock.patch("time.time", return_value=NOW.timestamp()):
        assert clock.stamp() == STAMP
        clock.offset = 60.0
        assert clock.stamp() == "20260309T010303Z"


def test_reprs_name_no_secret() -> None:
    keys_ = AccessKeys("AKID", "the-secret", "the-token")
    for text in (repr(keys_), repr(Signer("AKID", "the-secret", "r"))):
        assert "the-secret" not in text
        assert "the-token" not in text
