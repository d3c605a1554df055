"""Just enough of HTTP/1.1 framing for the fault proxy: heads, and where bodies end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

LARGEST_HEAD = 64 * 1024
PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and headers, byte for byte as they came."""

    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes | None:
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def replaced(self, name: bytes, value: bytes | None) -> Head:
        """With one header changed, added at the end, or (None) removed."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return Head(self.start, kept if value is None else (*kept, (name, value)))

    def encode(self) -> bytes:
        lines = [self.start, *(name + b": " + value for name, value in self.headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    @property
    def length(self) -> int | None:
        value = self.get(b"content-length")
        return None if value is None else int(value)

    @property
    def chunked(self) -> bool:
        return (self.get(b"transfer-encoding") or b"").lower().endswith(b"chunked")

    @property
    def closes(self) -> bool:
        return (self.get(b"connection") or b"").lower() == b"close"

    @property
    def status(self) -> int:
        return int(self.start.split(b" ", 2)[1])


async def read_head(reader: asyncio.StreamReader) -> Head | None:
    """The next head, or None where the peer closed between messages."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise
        return None
    start, *lines = raw[:-4].split(b"\r\n")
    pairs = (line.partition(b":") for line in lines)
    return Head(start, tuple((name, value.strip()) for name, _, value in pairs))


async def body(
    reader: asyncio.StreamReader, head: Head, *, until_eof: bool
) -> AsyncIterator[bytes]:
    """The raw bytes of a body, chunk framing included. Raises IncompleteReadError if cut.

    ``until_eof``: without length and chunking the body ends with the connection (answers only).
    """
    if head.chunked:
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            yield line
            async for piece in _exactly(reader, size + 2):
                yield piece
            if size == 0:
                return
    elif head.length is not None:
        async for piece in _exactly(reader, head.length):
            yield piece
    elif until_eof:
        while piece := await reader.read(PIECE):
            yield piece


async def _exactly(reader: asyncio.StreamReader, length: int) -> AsyncIterator[bytes]:
    while length:
        piece = await reader.read(min(length, PIECE))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece


_OBJECT_KINDS = {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
_BUCKET_KINDS = {"HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}


def s3_kind(method: str, target: str, *, copies: bool) -> str:
    """Name of the S3 operation of a path-style request; ``copies``: x-amz-copy-source is there."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    key = unquote(parts.path.lstrip("/")).partition("/")[2]
    if not key:
        if method == "GET":
            if "uploads" in query:
                return "ListMultipartUploads"
            if parts.path == "/":
                return "ListBuckets"
            if "list-type" in query:
                return "ListObjectsV2"
            return "GetBucketLocation" if "location" in query else "ListObjects"
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        return _BUCKET_KINDS.get(method, "Other")
    if method == "PUT":
        if "partNumber" in query:
            return "UploadPartCopy" if copies else "UploadPart"
        return "CopyObject" if copies else "PutObject"
    if method == "POST":
        return "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
    if "uploadId" in query:
        return "AbortMultipartUpload" if method == "DELETE" else "ListParts"
    return _OBJECT_KINDS.get(method, "Other")
