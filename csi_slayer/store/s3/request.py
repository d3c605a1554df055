"""From an S3 operation to the bytes of a signed request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csi_slayer.store.options import ObjectOptions
from csi_slayer.store.s3.address import BucketAddress
from csi_slayer.store.s3.credentials import SignedBy
from csi_slayer.store.s3.headers import USER_AGENT
from csi_slayer.store.s3.sign import (
    EMPTY_PAYLOAD,
    AmzClock,
    content_md5,
    encode_query,
    hash_payload,
)

Pairs = Sequence[tuple[str, str]]

STORAGE_CLASS = "x-amz-storage-class"

_NOTHING = ObjectOptions()
_WRITES = frozenset({"PutObject", "CopyObject", "CreateMultipartUpload"})
_SENDS = frozenset({"PutObject", "UploadPart"})


@dataclass(slots=True)
class S3Request:
    """One operation; ``op`` is its name in the S3 API, ``headers`` have lower-case names.

    ``key`` None: about the bucket. ``body_length`` is given where the body is sent from a file,
    and the body is then not signed; ``ask_first``: after the server has asked for it.
    """

    op: str
    method: str
    key: str | None
    query: Pairs = ()
    headers: Pairs = ()
    body: bytes | memoryview = b""
    body_length: int | None = None
    ask_first: bool = False


def _always(objects: ObjectOptions) -> Pairs:
    """Headers of all requests to a bucket that is there."""
    headers = []
    if objects.requester_pays:
        headers.append(("x-amz-request-payer", "requester"))
    if objects.owner is not None:
        headers.append(("x-amz-expected-bucket-owner", objects.owner))
    return headers


def _writing(objects: ObjectOptions) -> Pairs:
    """Headers of the requests that make an object: instead of the same ones of the request, which
    are those of a copy's source."""
    values = {
        STORAGE_CLASS: objects.storage_class,
        "x-amz-server-side-encryption": objects.encryption,
        "x-amz-server-side-encryption-aws-kms-key-id": objects.kms_key_id,
    }
    return [(name, value) for name, value in values.items() if value is not None]


class RequestWriter:
    """Writes request heads for one bucket. Safe to use from several threads."""

    def __init__(self, address: BucketAddress, objects: ObjectOptions = _NOTHING) -> None:
        self.address = address
        self.clock = AmzClock()
        self.digests = False
        """Whether bodies need a Content-MD5: objects that are to be kept for a time do."""
        self._always = _always(objects)
        self._writing = _writing(objects)
        self._asked = {name for name, _ in self._writing}

    def head(self, request: S3Request, signed_by: SignedBy | None) -> bytes:
        """Request line and headers; ``signed_by`` None for an anonymous request."""
        address = self.address
        path = address.bucket_path if request.key is None else address.path(request.key)
        query = encode_query(request.query) if request.query else ""
        headers = [("host", address.host_header), *request.headers]
        if request.op != "CreateBucket":
            headers += self._always
        if self._writing and request.op in _WRITES:
            headers = [pair for pair in headers if pair[0] not in self._asked]
            headers += self._writing
        if self.digests and request.op in _SENDS and request.body_length is None:
            headers.append(("content-md5", content_md5([request.body])))
        if signed_by is not None:
            self._sign(headers, request, path, query, signed_by)
        headers.append(("user-agent", USER_AGENT))
        if request.method in ("PUT", "POST"):
            length = len(request.body) if request.body_length is None else request.body_length
            headers.append(("content-length", str(length)))
            if request.ask_first:
                headers.append(("expect", "100-continue"))
        target = f"{path}?{query}" if query else path
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        # An object's own headers are sent back in the bytes that they came in.
        return f"{request.method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")

    def _sign(
        self,
        headers: list[tuple[str, str]],
        request: S3Request,
        path: str,
        query: str,
        signed_by: SignedBy,
    ) -> None:
        if request.body_length is not None:
            payload = "UNSIGNED-PAYLOAD"
        elif request.body:
            payload = hash_payload(request.body)
        else:
            payload = EMPTY_PAYLOAD
        stamp = self.clock.stamp()
        headers.append(("x-amz-content-sha256", payload))
        headers.append(("x-amz-date", stamp))
        if signed_by.token is not None:
            headers.append(("x-amz-security-token", signed_by.token))
        headers.sort()
        headers.append(
            (
                "authorization",
                signed_by.signer.authorization(
                    request.method, path, query, headers, payload, stamp
                ),
            )
        )
