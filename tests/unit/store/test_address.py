"""Where buckets are."""

from __future__ import annotations

import pytest

from csi_slayer.errors import ConfigError
from csi_slayer.store.s3.address import locate, split_url


@pytest.mark.parametrize(
    ("endpoint", "region", "path_style", "bucket", "expected"),
    [
        (None, "eu-west-1", None, "bucket", (True, "bucket.s3.eu-west-1.amazonaws.com", 443, "/k")),
        (None, "us-east-1", True, "bucket", (True, "s3.us-east-1.amazonaws.com", 443, "/bucket/k")),
        (None, "us-east-1", None, "a.b", (True, "s3.us-east-1.amazonaws.com", 443, "/a.b/k")),
        (None, "us-east-1", None, "UPPER", (True, "s3.us-east-1.amazonaws.com", 443, "/UPPER/k")),
        (None, "cn-north-1", None, "bbb", (True, "bbb.s3.cn-north-1.amazonaws.com.cn", 443, "/k")),
        ("http://h:9000", "r", None, "bucket", (False, "h", 9000, "/bucket/k")),
        ("http://h:9000", "r", False, "bucket", (False, "bucket.h", 9000, "/k")),
        ("https://h/base/", "r", None, "bucket", (True, "h", 443, "/base/bucket/k")),
        ("http://[::1]:80", "r", None, "bucket", (False, "::1", 80, "/bucket/k")),
    ],
)
def test_addresses(
    endpoint: str | None,
    region: str,
    path_style: bool | None,
    bucket: str,
    expected: tuple[bool, str, int, str],
) -> None:
    address = locate(bucket, "", endpoint, region, path_style)
    assert (address.secure, address.host, address.port, address.path("k")) == expected


def test_host_headers_leave_out_the_default_port() -> None:
    assert locate("b", "", "http://h:80", "r", None).host_header == "h"
    assert locate("b", "", "https://h:443", "r", None).host_header == "h"
    assert locate("b", "", "https://h:80", "r", None).host_header == "h:80"
    assert locate("b", "", "http://[::1]:9", "r", None).host_header == "[::1]:9"


def test_requests_about_the_bucket() -> None:
    assert locate("b", "p/", "http://h", "r", None).bucket_path == "/b"
    assert locate("bbb", "p/", None, "r", None).bucket_path == "/"
    assert locate("b", "p q/", "http://h", "r", None).copy_source("k+") == "b/p%20q/k%2B"


@pytest.mark.parametrize("endpoint", ["h:9000", "ftp://h", "http://", "http://h:x", "http://h?q=1"])
def test_endpoints_that_are_none(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        locate("b", "", endpoint, "r", None)


def test_a_bucket_that_is_no_host_name() -> None:
    with pytest.raises(ConfigError, match="path_style"):
        locate("Not_A_Host", "", "http://h", "r", False)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket", ("bucket", "")),
        ("s3://bucket/", ("bucket", "")),
        ("s3://bucket/a/b", ("bucket", "a/b/")),
        ("s3://bucket/a b%20/", ("bucket", "a b%20/")),
    ],
)
def test_urls(url: str, expected: tuple[str, str]) -> None:
    assert split_url(url) == expected


@pytest.mark.parametrize("url", ["s3:/x", "s3://", "s3:///p", "http://b/p", "s3://key:secret@b/p"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_url(url)
    assert "secret" not in str(caught.value) or "@" not in str(caught.value)
