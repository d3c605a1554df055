"""Headers of the S3 API: etags, times, ranges, user metadata."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from csi_slayer import __version__
from csi_slayer.errors import StoreError, StoreIntegrityError
from csi_slayer.store.base import Condition, ObjectInfo, storable_time
from csi_slayer.store.write_token import WRITE_TOKEN

USER_AGENT = f"slayerfs/{__version__}"
"""What tells a service's access log who asked; not signed, for proxies may change it."""

_META = "x-amz-meta-"

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_MONTH_NAMES = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split(" "), start=1)}
_HTTP_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, (\d\d) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d\d):(\d\d):(\d\d) GMT"
)
# Visible ASCII and single spaces survive every server and proxy as they are.
_SAFE_VALUE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "%")


def normal_etag(etag: str) -> str:
    """With its quotes: some servers forget them in some answers. Raises StoreIntegrityError for
    what could end a header: it is sent back in one."""
    if not (etag.isascii() and etag.isprintable()):
        raise StoreIntegrityError(f"{etag[:80]!r} is no etag")
    if etag and not etag.endswith('"'):
        return f'"{etag}"'
    return etag


def encode_value(value: str) -> str:
    """A header-safe form of any text: percent-encoded where it is not plain."""
    text = quote(value, safe=_SAFE_VALUE + " ", errors="surrogateescape")
    if text.startswith(" ") or text.endswith(" ") or "  " in text:
        text = text.replace(" ", "%20")
    return text


def decode_value(text: str) -> str:
    """The inverse. Text that we would not have encoded so is somebody else's: left as it is."""
    if "%" not in text:
        return text
    value = unquote(text, errors="surrogateescape")
    return value if encode_value(value) == text else text


def metadata_headers(
    metadata: Mapping[str, str] | None, token: str | None
) -> list[tuple[str, str]]:
    """User metadata as headers; ``token`` goes with it. Raises StoreError for impossible names."""
    headers = []
    for name, value in (metadata or {}).items():
        lower = name.lower()
        if _NAME.fullmatch(lower) is None:
            raise StoreError(f"{name!r} cannot be the name of user metadata")
        headers.append((_META + lower, encode_value(value)))
    if token is not None and (not metadata or WRITE_TOKEN not in metadata):
        headers.append((_META + WRITE_TOKEN, token))
    return headers


def others_metadata(headers: Mapping[str, str], names: Iterable[str]) -> list[tuple[str, str]]:
    """These names of an answer's metadata as they came: not to be written in our way."""
    return [(_META + name, headers[_META + name]) for name in names]


def read_metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """User metadata of an answer, without the write token."""
    start = len(_META)
    found = {
        name[start:]: decode_value(value)
        for name, value in headers.items()
        if name.startswith(_META)
    }
    found.pop(WRITE_TOKEN, None)
    return found


def read_write_token(headers: Mapping[str, str]) -> str | None:
    """The token of the write that made the object."""
    return headers.get(_META + WRITE_TOKEN)


def condition_headers(condition: Condition) -> list[tuple[str, str]]:
    """If-Match or If-None-Match."""
    if condition.if_match is not None:
        return [("if-match", condition.if_match)]
    return [("if-none-match", "*")] if condition.absent else []


def http_time(text: str) -> int:
    """Seconds since 1970 of an HTTP date in its fixed form; 0 for anything else.

    RFC 9110, section 5.6.7: ``Sun, 06 Nov 1994 08:49:37 GMT``.
    """
    match = _HTTP_DATE.fullmatch(text)
    if match is None:
        return 0
    day, month, year, hour, minute, second = match.groups()
    moment = (int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second))
    return storable_time(calendar.timegm(moment) * 10**9) // 10**9


def content_range(headers: Mapping[str, str]) -> tuple[int, int, int]:
    """First byte, length and total size of a 206 answer. Raises StoreIntegrityError."""
    text = headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise StoreIntegrityError(f"a partial answer without a valid Content-Range ({text[:80]!r})")
    first, last, total = int(match[1]), int(match[2]), int(match[3])
    return first, last - first + 1, total


def content_length(headers: Mapping[str, str]) -> int:
    """Content-Length. Raises StoreIntegrityError if it is missing or no number."""
    text = headers.get("content-length", "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise StoreIntegrityError(f"an answer without a valid Content-Length ({text[:80]!r})")
    return int(text)


def object_info(key: str, headers: Mapping[str, str], size: int) -> ObjectInfo:
    """What the headers of GET or HEAD say about an object. Raises StoreIntegrityError."""
    etag = headers.get("etag")
    if not etag:
        raise StoreIntegrityError("an answer without ETag")
    mtime_ns = http_time(headers.get("last-modified", "")) * 10**9
    return ObjectInfo(key, size, normal_etag(etag), mtime_ns, read_metadata(headers))


def head_info(key: str, headers: Mapping[str, str]) -> ObjectInfo:
    """What those of HEAD say, with the write's token. Raises StoreIntegrityError."""
    info = object_info(key, headers, content_length(headers))
    return info._replace(write_token=read_write_token(headers))
