"""Etags, times, ranges and user metadata of S3's headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import StoreError, StoreIntegrityError
from csi_slayer.store.s3.headers import (
    content_length,
    content_range,
    decode_value,
    encode_value,
    http_time,
    metadata_headers,
    normal_etag,
    object_info,
    read_metadata,
    read_write_token,
)
from csi_slayer.store.write_token import WRITE_TOKEN


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_value_survives_a_header(value: str) -> None:
    text = encode_value(value)
    assert text == " ".join(text.split())  # what SigV4 and proxies make of it
    assert text.isascii()
    assert text.isprintable()
    assert decode_value(text) == value


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_foreign_values_are_never_changed_by_reading_and_writing(text: str) -> None:
    value = decode_value(text)
    assert decode_value(encode_value(value)) == value


@pytest.mark.parametrize("text", ["100%", "%zz", "%41", "a%20b", "%c3%bc"])
def test_percent_signs_of_others_are_left_alone(text: str) -> None:
    assert decode_value(text) == text


def test_metadata_and_its_token() -> None:
    headers = metadata_headers({"Mode": "ü", "x": "1"}, "token")
    assert headers == [
        ("x-amz-meta-mode", "%C3%BC"),
        ("x-amz-meta-x", "1"),
        ("x-amz-meta-slayerfs-write", "token"),
    ]
    received = {**dict(headers), "etag": '"e"', "content-type": "t"}
    assert read_metadata(received) == {"mode": "ü", "x": "1"}
    assert read_write_token(received) == "token"
    given_token = metadata_headers({WRITE_TOKEN: "mine"}, "mine")
    assert given_token == [("x-amz-meta-slayerfs-write", "mine")]
    assert metadata_headers(None, None) == []


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nx-evil", "ü"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be the name"):
        metadata_headers({name: "x"}, None)


def test_etags_get_their_quotes() -> None:
    assert normal_etag("abc") == normal_etag('"abc"') == '"abc"'
    assert normal_etag('W/"abc"') == 'W/"abc"'
    assert normal_etag("") == ""


@pytest.mark.parametrize("etag", ['"a\r\nx-evil: 1"', '"a\0"', '"é"', '"\x7f"'])
def test_what_could_end_a_header_is_no_etag(etag: str) -> None:
    """It is sent back as If-Match: whoever writes a listing wrote headers of our requests."""
    with pytest.raises(StoreIntegrityError, match="is no etag"):
        normal_etag(etag)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777),
        ("Tue, 29 Feb 2028 23:59:59 GMT", 1835481599),
        ("Fri, 31 Dec 9999 23:59:59 GMT", (2**63 - 1) // 10**9),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("", 0),
    ],
)
def test_times(text: str, seconds: int) -> None:
    assert http_time(text) == seconds


def test_ranges_and_lengths() -> None:
    assert content_range({"content-range": "bytes 5-9/100"}) == (5, 5, 100)
    for text in ("bytes 5-9/*", "bytes */100", "items 1-2/3", "", f"bytes 0-1/{10**18}"):
        with pytest.raises(StoreIntegrityError):
            content_range({"content-range": text})
    with pytest.raises(StoreIntegrityError):
        content_range({})
    assert content_length({"content-length": "12"}) == 12
    for headers in (
        {},
        {"content-length": "-1"},
        {"content-length": "x"},
        {"content-length": "²"},
        {"content-length": "9" * 19},
    ):
        with pytest.raises(StoreIntegrityError):
            content_length(headers)


def test_an_object_has_an_etag() -> None:
    with pytest.raises(StoreIntegrityError):
        object_info("key", {}, 1)
    info = object_info("key", {"etag": "e", "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}, 1)
    assert (info.etag, info.mtime_ns, info.metadata) == ('"e"', 784111777 * 10**9, {})
