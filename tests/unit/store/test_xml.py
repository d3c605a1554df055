"""Listings, uploads, errors and delete requests in XML."""

from __future__ import annotations

from urllib.parse import quote_plus
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.s3.xml import (
    build_complete,
    build_delete,
    next_token,
    parse_deleted,
    parse_error,
    parse_listing,
    parse_result,
    parse_uploads,
    writable,
)

NAMESPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def _listing(contents: str, *, namespace: str = NAMESPACE, more: str = "") -> bytes:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult{namespace}>'
        f"<Name>b</Name><EncodingType>url</EncodingType>{more}{contents}</ListBucketResult>"
    ).encode()


def _plain_entry(key: str, etag: str, size: int, more: str = "") -> str:
    """As AWS and MinIO order the fields."""
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-24T10:40:00.123Z</LastModified>"
        f"<ETag>{etag}</ETag><Size>{size}</Size>{more}</Contents>"
    )


def _entry(key: str) -> str:
    return (
        f"<Contents><Key>{escape(quote_plus(key))}</Key><Size>7</Size>"
        "<ETag>&quot;abc&quot;</ETag><LastModified>2026-11-24T10:40:00.123Z</LastModified></Contents>"
    )


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1)))
def test_every_key_is_read_as_it_was(keys: list[str]) -> None:
    page = parse_listing(_listing("".join(_entry("pre/" + key) for key in keys)), "pre/")
    assert [item.key for item in page.objects] == keys


_KEYS = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"))
_ETAGS = st.sampled_from(['"a1"', "&quot;b-2&quot;", "&#34;c3&#34;", "", "d4", "W/&quot;e5&quot;"])
_MORE = st.sampled_from(
    ["", "<StorageClass>STANDARD</StorageClass>", "<Owner><ID>x</ID></Owner>", "<Empty/>"]
)


@given(
    st.lists(st.tuples(_KEYS, _ETAGS, st.integers(0, 1 << 50), _MORE)),
    st.sampled_from(["", "<EncodingType>url</EncodingType>"]),
    st.booleans(),
)
def test_a_plain_page_reads_as_any_other(
    entries: list[tuple[str, str, int, str]], encoding: str, encoded: bool
) -> None:
    """Comments change nothing of what XML says, but have all of it parsed."""
    contents = "".join(
        _plain_entry(quote_plus(key) if encoded else key, etag, size, more)
        for key, etag, size, more in entries
    )
    body = _listing(contents).replace(b"<EncodingType>url</EncodingType>", encoding.encode())
    commented = body.replace(b"<Contents>", b"<Contents><!-- -->")
    assert parse_listing(body) == parse_listing(commented)


@pytest.mark.parametrize("namespace", ["", NAMESPACE])
def test_a_page(namespace: str) -> None:
    prefixes = "<CommonPrefixes><Prefix>p%2Fa+b/</Prefix></CommonPrefixes>"
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t/+=</NextContinuationToken>"
    page = parse_listing(_listing(_entry("p/") + _entry("p/x") + prefixes, namespace=namespace,
                                  more=more), "p/")  # fmt: skip
    assert [(o.key, o.size, o.etag, o.mtime_ns, o.metadata) for o in page.objects] == [
        ("x", 7, '"abc"', 1795516800123000000, None)
    ]
    assert (page.prefixes, page.token) == (["a b/"], "t/+=")


@pytest.mark.parametrize(
    "token", ["t/+=", "a:b_c-d~.e", "1!*'()", "%2Fx", "[minio_cache:v2,return:]"]
)
def test_a_token_is_found_before_the_page_is_read(token: str) -> None:
    more = f"<NextContinuationToken>{token}</NextContinuationToken><IsTruncated>true</IsTruncated>"
    body = _listing(_entry("x"), more=more)
    assert next_token(body) == parse_listing(body).token == token


@pytest.mark.parametrize(
    "token", ["a&amp;b", "&#65;", "a<!-- -->b", "<![CDATA[a]]>", "", "a b", "ü"]
)
def test_a_token_that_takes_a_parser_is_left_to_it(token: str) -> None:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    assert next_token(_listing(_entry("x"), more=more)) is None
    assert next_token(_listing(_entry("x"))) is None


@pytest.mark.parametrize(("year", "time_ns"), [("9999", 2**63 - 1), ("1600", -(2**63))])
def test_a_time_that_cannot_be_kept_becomes_the_nearest(year: str, time_ns: int) -> None:
    for rest in ("T10:40:00Z", "T10:40:00.123Z"):
        entry = _entry("x").replace("2026-11-24T10:40:00.123Z", f"{year}-11-24{rest}")
        (found,) = parse_listing(_listing(entry)).objects
        assert found.mtime_ns == time_ns


def test_keys_that_are_not_encoded_stay_as_they_are() -> None:
    body = _listing(_entry("x").replace("<Key>x<", "<Key>a+%20<")).replace(
        b"<EncodingType>url</EncodingType>", b""
    )
    assert [item.key for item in parse_listing(body).objects] == ["a+%20"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"<html></html>",
        _listing(_entry("elsewhere")),
        _listing(_entry("pre/x").replace("<Size>7</Size>", "")),
        _listing(_entry("pre/x").replace("7", "seven")),
        _listing(_entry("pre/x").replace("7", "-7")),
        _listing(_entry("pre/x").replace("7", str(2**63))),
        _listing(_entry("pre/x").replace("2026-11-24T", "yesterday")),
        _listing("", more="<IsTruncated>true</IsTruncated>"),
    ],
)
def test_what_is_no_listing_is_refused(body: bytes) -> None:
    with pytest.raises(StoreIntegrityError):
        parse_listing(body, "pre/")


def test_uploads() -> None:
    body = (
        b"<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true"
        b"</IsTruncated><NextKeyMarker>p%2Fk</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>"
        b"<Upload><Key>p%2Fk+1</Key><UploadId>u</UploadId>"
        b"<Initiated>2026-11-24T10:40:00Z</Initiated></Upload></ListMultipartUploadsResult>"
    )
    page = parse_uploads(body, "p/")
    assert [(u.key, u.upload_id, u.started_ns) for u in page.uploads] == [
        ("k 1", "u", 1795516800 * 10**9)
    ]
    assert page.markers == ("p/k", "u")
    with pytest.raises(StoreIntegrityError):
        parse_uploads(b"<Other/>")


def test_errors() -> None:
    body = b"<Error><Code>NoSuchKey</Code><Message>gone</Message><Region>eu</Region></Error>"
    assert parse_error(body) == ("NoSuchKey", "gone", {"Region": "eu"})
    for nothing in (b"", b"<html></html>", b"\xff"):
        assert parse_error(nothing) == ("", "", {})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_become_gigabytes(encoding: str) -> None:
    """A server made 1.4 GB, and two seconds without the event loop, of an answer of 7 MB: expat
    allows a factor of 100."""
    text = (
        f'<!DOCTYPE x [<!ENTITY e "{"A" * 20000}">]><Error><!--{" " * 20000}-->'
        f"<Code>{'&e;' * 90}</Code></Error>"
    ).encode(encoding)
    assert parse_error(text) == ("", "", {})
    with pytest.raises(StoreIntegrityError, match=r"DOCTYPE|zero bytes"):
        parse_listing(text)


def test_whitespace_before_a_late_answer() -> None:
    body = b'  \n <?xml version="1.0"?><CompleteMultipartUploadResult><ETag>"e"</ETag>' + (
        b"</CompleteMultipartUploadResult>"
    )
    assert parse_result(body, "CompleteMultipartUploadResult") == {"ETag": '"e"'}
    with pytest.raises(StoreIntegrityError, match="expected CopyObjectResult"):
        parse_result(body, "CopyObjectResult")


def test_deleted() -> None:
    body = (
        b"<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error>"
        b"</DeleteResult>"
    )
    assert parse_deleted(body) == {"a": "AccessDenied: no"}
    assert parse_deleted(b"<DeleteResult/>") == {}


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(writable)))
def test_every_writable_key_can_be_deleted(keys: list[str]) -> None:
    root = ElementTree.fromstring(build_delete(keys))
    assert [element.text for element in root.iter("Key")] == keys


@pytest.mark.parametrize("key", ["a\x01", "\x00", "\ud800", "\ufffe"])
def test_some_keys_cannot_be_written(key: str) -> None:
    assert not writable(key)


def test_complete() -> None:
    root = ElementTree.fromstring(build_complete([(1, '"a"'), (2, '"b"')]))
    assert [e.text for e in root.iter("PartNumber")] == ["1", "2"]
    assert [e.text for e in root.iter("ETag")] == ['"a"', '"b"']
