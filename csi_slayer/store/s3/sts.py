"""Temporary credentials from STS: AssumeRoleWithWebIdentity and AssumeRole.

Two plain HTTPS calls. botocore could make them, but its STS client costs a worker several
megabytes for as long as it lives. Blocking: called from the refresh thread only.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from urllib.parse import urlsplit

from csi_slayer.errors import AccessDenied, StoreIntegrityError
from csi_slayer.store.retry import Transient
from csi_slayer.store.s3.errors import SKEW, clock_offset
from csi_slayer.store.s3.halt import shut_down
from csi_slayer.store.s3.headers import USER_AGENT
from csi_slayer.store.s3.keys import AccessKeys
from csi_slayer.store.s3.proxy import Proxy
from csi_slayer.store.s3.sign import AmzClock, Signer, encode_query
from csi_slayer.store.s3.tokens import ended_ago
from csi_slayer.store.s3.xml import parse

_API_VERSION = "2011-06-15"
_MOST_ANSWER_BYTES = 1 << 20
_LONGEST_MESSAGE = 200
# A whole call may take so many times as long as its longest silence.
_LONGEST_CALL = 6.0
_TOKEN = "WebIdentityToken"
_CHECK_ROLE = "role_arn and the role's trust policy"
_CHECK_TOKEN = "role_arn, the role's trust policy, the token's audience and that it is not too old"


@dataclass(frozen=True, slots=True)
class StsEndpoint:
    """Where the service is and how to speak to it; ``timeout``: its longest silence in seconds.
    ``verify``: what ``tls`` is made of, for botocore: the file with the authorities, False for
    none, None for the system's."""

    url: str
    region: str
    timeout: float
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: Proxy | None = None
    verify: str | bool | None = None

    def call(
        self, parameters: Sequence[tuple[str, str]], signed_by: AccessKeys | None, check: str
    ) -> tuple[bytes, float]:
        """POST a query; returns the answer's XML, and the seconds that the service's clock is
        ahead of ours, 0 for few. ``check``: what to look at if it is refused.

        Raises Transient (unreachable, 5xx, throttled) or AccessDenied (refused).
        """
        body = encode_query([("Version", _API_VERSION), *parameters]).encode()
        clock = AmzClock()
        status, date, answer = self._post(body, signed_by, clock)
        offset = clock_offset(date)
        if abs(offset) <= SKEW:
            offset = 0.0
        elif status in (400, 403) and signed_by is not None:
            clock.offset = offset
            status, _, answer = self._post(body, signed_by, clock)
        if status >= 500 or status == 429 or b"Throttling" in answer:
            raise Transient(f"no credentials from {self.url}: HTTP {status}")
        if status != 200:
            reason = _text(answer, "Code") or f"HTTP {status}"
            if message := _text(answer, "Message"):
                for name, value in parameters:
                    if name == _TOKEN:  # should a service repeat what it was sent
                        message = message.replace(value, "***")
                reason += f": {message[:_LONGEST_MESSAGE]}"
            raise AccessDenied(f"{self.url} gave no credentials ({reason}): check {check}")
        return answer, offset

    def _post(
        self, body: bytes, signed_by: AccessKeys | None, clock: AmzClock
    ) -> tuple[int, str, bytes]:
        """Status, date and body of the answer. Raises Transient."""
        parts = urlsplit(self.url)
        path = parts.path or "/"
        headers = [
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
            ("host", parts.netloc),
        ]
        if signed_by is not None:
            headers += _signature(signed_by, self.region, path, body, headers, clock.stamp())
        headers.append(("user-agent", USER_AGENT))
        connection: http.client.HTTPConnection
        # A port is always said: without one the end of an IPv6 address would be taken for it.
        host, proxy = parts.hostname or "", self.proxy
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if proxy is not None:
            connection = http.client.HTTPSConnection(
                proxy.host, proxy.port, timeout=self.timeout, context=self.tls
            )
            authorization = proxy.authorization
            also = {} if authorization is None else {"Proxy-Authorization": authorization}
            connection.set_tunnel(host, port, also)
        elif parts.scheme == "https":
            connection = http.client.HTTPSConnection(
                host, port, timeout=self.timeout, context=self.tls
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        try:
            connection.connect()
            with _cut_off(connection.sock, _LONGEST_CALL * self.timeout):
                connection.request("POST", path, body, dict(headers))
                response = connection.getresponse()
                answer = response.read(_MOST_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Transient(f"no credentials from {self.url}: {error}") from error
        finally:
            connection.close()
        return response.status, response.headers.get("date", ""), answer


@contextlib.contextmanager
def _cut_off(sock: socket.socket, seconds: float) -> Iterator[None]:
    """Whoever sends a byte now and then is never silent. Raises TimeoutError, whatever what is cut
    off makes of it."""
    over = threading.Event()

    def cut() -> None:
        over.set()
        shut_down(sock)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if over.is_set():
            raise TimeoutError(f"no whole answer within {seconds:g} s")


def _signature(
    keys: AccessKeys, region: str, path: str, body: bytes, headers: Sequence[tuple[str, str]],
    stamp: str,
) -> list[tuple[str, str]]:  # fmt: skip
    extra = [("x-amz-date", stamp)]
    if keys.session_token:
        extra.append(("x-amz-security-token", keys.session_token))
    signer = Signer(keys.access_key, keys.secret_key, region, "sts")
    signed = sorted([*headers, *extra])
    authorization = signer.authorization("POST", path, "", signed, sha256(body).hexdigest(), stamp)
    return [*extra, ("authorization", authorization)]


def assume_with_token(
    endpoint: StsEndpoint, role: str | None, token: str, session: str
) -> AccessKeys:
    """AssumeRoleWithWebIdentity; AWS needs the role, other services may know one for the token."""
    parameters = [("Action", "AssumeRoleWithWebIdentity"), (_TOKEN, token)]
    if role is not None:
        parameters += [("RoleArn", role), ("RoleSessionName", session)]
    try:
        return _parse(*endpoint.call(parameters, None, _CHECK_TOKEN))
    except AccessDenied as error:
        ago = ended_ago(token)
        if ago is not None:
            raise AccessDenied(
                f"the web identity token ended {ago:.0f} s ago: a new one is needed ({error})"
            ) from None
        raise


def assume_with_keys(
    endpoint: StsEndpoint, role: str, session: str, source: AccessKeys
) -> AccessKeys:
    """AssumeRole, signed by the identity that may assume the role."""
    parameters = [("Action", "AssumeRole"), ("RoleArn", role), ("RoleSessionName", session)]
    return _parse(*endpoint.call(parameters, source, _CHECK_ROLE))


def _text(answer: bytes, name: str) -> str:
    try:
        root = parse(answer)
    except StoreIntegrityError:
        return ""
    return next((element.text or "" for element in root.iter(name)), "")


def _parse(answer: bytes, offset: float) -> AccessKeys:
    expiration = _text(answer, "Expiration")
    keys = AccessKeys(
        access_key=_text(answer, "AccessKeyId"),
        secret_key=_text(answer, "SecretAccessKey"),
        session_token=_text(answer, "SessionToken") or None,
        expires=datetime.fromisoformat(expiration).timestamp() - offset if expiration else None,
    )
    if not keys.access_key or not keys.secret_key:
        raise AccessDenied("STS answered without credentials")
    return keys
