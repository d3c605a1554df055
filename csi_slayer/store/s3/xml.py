"""The XML of the S3 API: what is read and what is sent.

Source: the S3 API reference. Names come with or without a namespace, depending on the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from csi_slayer.errors import StoreIntegrityError
from csi_slayer.store.base import SIZE_MAX, ListPage, ObjectInfo, PendingUpload, storable_time
from csi_slayer.store.s3.headers import normal_etag

_NAMESPACE = re.compile(rb' xmlns="http://s3\.amazonaws\.com/doc/2006-03-01/"')
# An object of a listing as most servers write it: these fields in this order, in them nothing that
# XML has to escape but the etag's quotes, and after them only elements of plain text.
_PLAIN_OBJECT = re.compile(
    "(<Contents><Key>([^<>&\\x00-\\x1f\ufffe\uffff]*)</Key><LastModified>([0-9TZ:.-]*)</LastModified>"
    '<ETag>(?:"|&quot;|&#34;)([0-9A-Za-z-]*)(?:"|&quot;|&#34;)</ETag><Size>([0-9]+)</Size>'
    "(?:<([A-Za-z]+)>[0-9A-Za-z_ -]*</\\6>)*</Contents>)"
)
_END = "</Contents>"
# A token that XML need not escape; without another form of it a listing can be read on sooner.
_PLAIN_TOKEN = re.compile(rb"<NextContinuationToken>([!-%'-;=?-~]+)</NextContinuationToken>")
_UTF8 = b'<?xml version="1.0" encoding="UTF-8"?>'
# XML 1.0 has no way to write these, not even as a reference.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ESCAPES = {"\r": "&#13;", "\n": "&#10;", "\t": "&#9;", '"': "&quot;"}

_Fields = tuple[str, str, str, str]
"""Key, time of the last change, etag and size of an object in a listing."""


@dataclass(frozen=True, slots=True)
class Uploads:
    """A page of ListMultipartUploads; ``markers`` continue it (key, upload id)."""

    uploads: list[PendingUpload]
    markers: tuple[str, str] | None


def parse(body: bytes) -> Element:
    """The root of a document, names without a namespace. Raises StoreIntegrityError for what is no
    XML, or declares entities: they can make gigabytes of a few megabytes."""
    if b"<!DOCTYPE" in body:
        raise StoreIntegrityError("the server's answer is not XML of this API: it has a DOCTYPE")
    # Only UTF-16, which no service sends, has other bytes for that word; and it has zeros.
    if b"\0" in body:
        raise StoreIntegrityError("the server's answer is not XML of this API: it has zero bytes")
    # Without its namespace the document is parsed faster, and names need no stripping.
    plain = _NAMESPACE.sub(b"", body.strip(), count=1)
    try:
        root = ElementTree.fromstring(plain)
    except ElementTree.ParseError as error:
        raise StoreIntegrityError(f"the server's answer is not XML: {error}") from error
    if root.tag[:1] == "{":
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
    return root


def _text(element: Element, name: str) -> str:
    return element.findtext(name) or ""


def _time_ns(text: str, known: dict[str, int]) -> int:
    """Nanoseconds of ``2026-11-24T10:40:00.123Z``; many objects of a page share their second."""
    second, rest = text[:19], text[19:]
    value = known.get(second)
    if value is None:
        moment = datetime.fromisoformat(second).replace(tzinfo=UTC)
        value = known[second] = int(moment.timestamp()) * 10**9
    if rest == "Z":
        return storable_time(value)
    if rest[:1] != "." or rest[-1:] != "Z":
        raise ValueError(f"{text[:80]!r} is not a time in UTC")
    return storable_time(value + int(rest[1:-1][:9].ljust(9, "0")))


def _size(text: str) -> int:
    value = int(text)
    if not 0 <= value <= SIZE_MAX:
        raise ValueError(f"{value} is not the size of an object")
    return value


def _decode(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape") if "%" in text or "+" in text else text


def _below(key: str, root_prefix: str) -> str:
    if not key.startswith(root_prefix):
        raise ValueError(f"{key[:200]!r} is not below the prefix")
    return key[len(root_prefix) :]


def _same(text: str) -> str:
    return text


def _plain_objects(body: bytes) -> tuple[list[_Fields], bytes]:
    """The objects of a listing that writes all of them plainly, and the listing without them.
    Four times as fast as to have the parser build their elements."""
    if not body.startswith(_UTF8):
        return [], body
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return [], body
    found = _PLAIN_OBJECT.findall(text)
    if len(found) != text.count("<Contents"):
        return [], body
    first, end = text.find("<Contents"), text.rfind(_END) + len(_END)
    if sum([len(fields[0]) for fields in found]) == end - first:
        rest = text[:first] + text[end:]  # nothing is between them
    else:
        rest = _PLAIN_OBJECT.sub("", text)
    return [fields[1:5] for fields in found], rest.encode()


def _objects(root: Element) -> Iterator[_Fields]:
    """Raises KeyError for an object that lacks a field."""
    for element in root.iterfind("Contents"):
        fields = {child.tag: child.text or "" for child in element}
        yield fields["Key"], fields["LastModified"], fields.get("ETag", ""), fields["Size"]


def parse_listing(body: bytes, root_prefix: str = "") -> ListPage:
    """ListObjectsV2, keys without ``root_prefix``; the object named like it is left out.

    Raises StoreIntegrityError if it is not a listing or lists something else.
    """
    plain, body = _plain_objects(body)
    root = parse(body)
    if root.tag != "ListBucketResult":
        raise StoreIntegrityError(f"expected a listing, the server sent {root.tag}")
    decode = _decode if _text(root, "EncodingType") == "url" else _same
    objects: list[ObjectInfo] = []
    times: dict[str, int] = {}
    try:
        for key, modified, etag, size in plain or _objects(root):
            name = _below(decode(key), root_prefix)
            if name:
                objects.append(
                    ObjectInfo(name, _size(size), normal_etag(etag), _time_ns(modified, times))
                )
        prefixes = [
            _below(decode(_text(element, "Prefix")), root_prefix)
            for element in root.iterfind("CommonPrefixes")
        ]
    except (KeyError, ValueError) as error:
        raise StoreIntegrityError(f"malformed entry in a listing: {error!r}") from error
    token = None
    if _text(root, "IsTruncated") == "true":
        token = _text(root, "NextContinuationToken")
        if not token:
            raise StoreIntegrityError("a truncated listing has no continuation token")
    return ListPage(objects, prefixes, token)


def next_token(body: bytes) -> str | None:
    """What seems to continue a listing, found without reading all of it; :func:`parse_listing`
    says what does."""
    found = _PLAIN_TOKEN.search(body)
    return None if found is None else found[1].decode()


def parse_uploads(body: bytes, root_prefix: str = "") -> Uploads:
    """ListMultipartUploads, keys without ``root_prefix``. Raises StoreIntegrityError."""
    root = parse(body)
    if root.tag != "ListMultipartUploadsResult":
        raise StoreIntegrityError(f"expected uploads, the server sent {root.tag}")
    decode = _decode if _text(root, "EncodingType") == "url" else _same
    times: dict[str, int] = {}
    try:
        uploads = [
            PendingUpload(
                _below(decode(_text(element, "Key")), root_prefix),
                _text(element, "UploadId"),
                _time_ns(_text(element, "Initiated"), times),
            )
            for element in root.iter("Upload")
        ]
    except ValueError as error:
        raise StoreIntegrityError(f"malformed entry in a list of uploads: {error!r}") from error
    markers = None
    if _text(root, "IsTruncated") == "true":
        markers = (decode(_text(root, "NextKeyMarker")), _text(root, "NextUploadIdMarker"))
    return Uploads(uploads, markers)


def parse_error(body: bytes) -> tuple[str, str, dict[str, str]]:
    """Code, message and the other fields of an error; empty if there is none."""
    try:
        root = parse(body)
    except StoreIntegrityError:
        return "", "", {}
    if root.tag != "Error":
        return "", "", {}
    fields = {child.tag: (child.text or "").strip() for child in root}
    return fields.pop("Code", ""), fields.pop("Message", ""), fields


def parse_result(body: bytes, tag: str) -> dict[str, str]:
    """The fields of a flat answer such as CopyObjectResult. Raises StoreIntegrityError."""
    root = parse(body)
    if root.tag != tag:
        raise StoreIntegrityError(f"expected {tag}, the server sent {root.tag}")
    return {child.tag: child.text or "" for child in root}


def parse_deleted(body: bytes) -> dict[str, str]:
    """The keys that DeleteObjects could not delete, and why."""
    root = parse(body)
    if root.tag != "DeleteResult":
        raise StoreIntegrityError(f"expected DeleteResult, the server sent {root.tag}")
    failed = {}
    for element in root.iter("Error"):
        reason = f"{_text(element, 'Code')}: {_text(element, 'Message')}"
        failed[_text(element, "Key")] = reason
    return failed


def writable(key: str) -> bool:
    """Whether a key can be written in XML at all."""
    return _UNWRITABLE.search(key) is None


def build_delete(keys: Iterable[str]) -> bytes:
    """The body of DeleteObjects: at most 1,000 keys, each of them :func:`writable`."""
    objects = "".join([f"<Object><Key>{escape(key, _ESCAPES)}</Key></Object>" for key in keys])
    return f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()


def build_complete(parts: Sequence[tuple[int, str]]) -> bytes:
    """The body of CompleteMultipartUpload."""
    items = "".join(
        [
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag, _ESCAPES)}</ETag></Part>"
            for number, etag in parts
        ]
    )
    return f"<CompleteMultipartUpload>{items}</CompleteMultipartUpload>".encode()
