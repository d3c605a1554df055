"""AWS Signature Version 4 in the Authorization header, as S3 wants it.

Source: "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)" of the
S3 API reference. S3 differs from other services: the path is signed as sent, neither normalised
nor encoded twice.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Iterable, Sequence
from hashlib import md5, sha256
from urllib.parse import quote

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_PAYLOAD = sha256(b"").hexdigest()
# Above this a second pass over the body costs more than it proves; TLS protects it in transit.
LARGEST_SIGNED_BODY = 1 << 20

_UNRESERVED = "-_.~"


def encode_path(text: str) -> str:
    """Percent-encode everything but unreserved characters and slashes; nothing is normalised."""
    return quote(text, safe="/-_.~", errors="surrogateescape")


def encode_query(pairs: Sequence[tuple[str, str]]) -> str:
    """The query in canonical form: encoded, then sorted. It is sent as it is signed."""
    encoded = [
        (
            quote(name, safe=_UNRESERVED, errors="surrogateescape"),
            quote(value, safe=_UNRESERVED, errors="surrogateescape"),
        )
        for name, value in pairs
    ]
    encoded.sort()
    return "&".join([f"{name}={value}" for name, value in encoded])


def hash_payload(body: bytes | memoryview) -> str:
    """What ``x-amz-content-sha256`` says about this body."""
    if not body:
        return EMPTY_PAYLOAD
    if len(body) > LARGEST_SIGNED_BODY:
        return UNSIGNED_PAYLOAD
    return sha256(body).hexdigest()


def content_md5(pieces: Iterable[bytes | memoryview]) -> str:
    """What ``content-md5`` says about a body of these pieces."""
    digest = md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return base64.b64encode(digest.digest()).decode("ascii")


def _trimmed(value: str) -> str:
    """With single spaces. A value that is not ASCII stands for bytes (latin-1), some of which would
    be taken for other space: an "à" ends in one."""
    words = value.split() if value.isascii() else [word for word in value.split(" ") if word]
    return " ".join(words)


class AmzClock:
    """The time in the form of ``x-amz-date``, shifted to the server's clock if ours is wrong."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._second = -1
        self._text = ""

    def stamp(self) -> str:
        """Now, like ``20130524T000000Z``."""
        second = int(time.time() + self.offset)
        if second != self._second:
            self._text = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
            self._second = second
        return self._text


class Signer:
    """Signs with one key pair for one region; keeps the derived key of the day."""

    def __init__(self, access_key: str, secret_key: str, region: str, service: str = "s3") -> None:
        self._access_key = access_key
        self._secret = f"AWS4{secret_key}".encode()
        self._region = region
        self._service = service
        self._day = ""
        self._key = b""

    def __repr__(self) -> str:
        """Name no key."""
        return f"Signer(region={self._region!r})"

    def authorization(
        self,
        method: str,
        path: str,
        query: str,
        headers: Sequence[tuple[str, str]],
        payload_hash: str,
        stamp: str,
    ) -> str:
        """The value of the Authorization header.

        ``path`` and ``query`` as sent; ``headers`` with lower-case names, sorted by name, among
        them ``host`` and ``x-amz-date`` (equal to ``stamp``).
        """
        day = stamp[:8]
        if day != self._day:
            self._key = self._derive(day)
            self._day = day
        lines = "".join([f"{name}:{_trimmed(value)}\n" for name, value in headers])
        names = ";".join([name for name, _ in headers])
        request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{payload_hash}"
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        digest = sha256(request.encode("latin-1")).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        return (
            f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )

    def _derive(self, day: str) -> bytes:
        key = self._secret
        for step in (day, self._region, self._service, "aws4_request"):
            key = hmac.digest(key, step.encode(), "sha256")
        return key
