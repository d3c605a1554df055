"""Temporary credentials from STS: AssumeRoleWithWebIdentity and AssumeRole.

Two plain HTTPS calls. botocore could make them, but its STS client costs a worker several
megabytes for as long as it lives. Blocking: called from the refresh thread only.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from csi_slayer.errors import AccessDenied
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.sign import AmzClock, Signer, encode_query

_API_VERSION = "2011-06-15"
_MOST_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StsEndpoint:
    """Where the service is and how to speak to it; ``timeout`` in seconds."""

    url: str
    region: str
    timeout: float
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def call(self, parameters: Sequence[tuple[str, str]], signed_by: AccessKeys | None) -> bytes:
        """POST a query; returns the answer's XML.

        Raises Transient (unreachable, 5xx, throttled) or AccessDenied (refused).
        """
        parts = urlsplit(self.url)
        path = parts.path or "/"
        body = encode_query([("Version", _API_VERSION), *parameters]).encode()
        headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", parts.netloc),
        ]
        if signed_by is not None:
            headers += _signature(signed_by, self.region, path, body, headers)
        connection: http.client.HTTPConnection
        host = parts.hostname or ""
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, parts.port, timeout=self.timeout, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection(host, parts.port, timeout=self.timeout)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            answer = response.read(_MOST_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Transient(f"no credentials from {self.url}: {error}") from error
        finally:
            connection.close()
        if response.status >= 500 or response.status == 429 or b"Throttling" in answer:
            raise Transient(f"no credentials from {self.url}: HTTP {response.status}")
        if response.status != 200:
            reason = _text(answer, "Code") or f"HTTP {response.status}"
            raise AccessDenied(
                f"{self.url} gave no credentials ({reason}): check role_arn, the role's trust "
                "policy and the token"
            )
        return answer


def _signature(
    keys: AccessKeys, region: str, path: str, body: bytes, headers: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    stamp = AmzClock().stamp()
    extra = [("x-amz-date", stamp)]
    if keys.session_token:
        extra.append(("x-amz-security-token", keys.session_token))
    signer = Signer(keys.access_key, keys.secret_key, region, "sts")
    signed = sorted([*headers, *extra])
    authorization = signer.authorization("POST", path, "", signed, sha256(body).hexdigest(), stamp)
    return [*extra, ("authorization", authorization)]


def assume_with_token(
    endpoint: StsEndpoint, role: str, token_file: str, session: str
) -> AccessKeys:
    """AssumeRoleWithWebIdentity; the token is read anew each time, for it is rotated."""
    try:
        token = Path(token_file).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII text"
        raise AccessDenied(f"web identity token file {token_file}: {reason}") from None
    parameters = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("RoleArn", role),
        ("RoleSessionName", session),
        ("WebIdentityToken", token),
    ]
    return _parse(endpoint.call(parameters, None))


def assume_with_keys(
    endpoint: StsEndpoint, role: str, session: str, source: AccessKeys
) -> AccessKeys:
    """AssumeRole, signed by the identity that may assume the role."""
    parameters = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", session)]
    return _parse(endpoint.call(parameters, source))


def _text(answer: bytes, name: str) -> str:
    try:
        root = ElementTree.fromstring(answer)
    except ElementTree.ParseError:
        return ""
    for element in root.iter():
        if element.tag.rpartition("}")[2] == name:
            return element.text or ""
    return ""


def _parse(answer: bytes) -> AccessKeys:
    expiration = _text(answer, "Expiration")
    keys = AccessKeys(
        access_key=_text(answer, "AccessKeyId"),
        secret_key=_text(answer, "SecretAccessKey"),
        session_token=_text(answer, "SessionToken") or None,
        expires=datetime.fromisoformat(expiration).timestamp() if expiration else None,
    )
    if not keys.access_key or not keys.secret_key:
        raise AccessDenied("STS answered without credentials")
    return keys
