"""An OpenID provider on loopback: what a cluster's API server is to an S3 service's STS.

It serves the discovery document and the public key, and signs tokens as the API server signs those
of service accounts (RS256), with a key made by the ``openssl`` program. :func:`minio_environment`
is all that MinIO needs to know of it, or of any other provider.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.support.mounts import wait_for
from tests.support.servers import S3Server, start_server

AUDIENCE = "slayerfs-role"
"""Of tokens that are exchanged for the role :func:`role_arn`."""

CLAIM_AUDIENCE = "slayerfs-claim"
"""Of tokens that say themselves, in the claim ``policy``, what they may do: no role is named."""

_KEY_ID = "test"


def role_arn(audience: str = AUDIENCE) -> str:
    """The role that MinIO makes for an OpenID client with a role policy."""
    digest = hashlib.sha1(audience.encode(), usedforsecurity=False).digest()
    return f"arn:minio:iam:::role/{_base64(digest)}"


def minio_environment(discovery: str, policy: str = "readwrite") -> dict[str, str]:
    """Variables of a MinIO server that exchanges tokens of the provider whose discovery document
    is at ``discovery``; for the role they are allowed what ``policy`` allows."""
    prefix = "MINIO_IDENTITY_OPENID"
    return {
        f"{prefix}_CONFIG_URL": discovery,
        f"{prefix}_CLIENT_ID": CLAIM_AUDIENCE,
        f"{prefix}_CONFIG_URL_ROLE": discovery,
        f"{prefix}_CLIENT_ID_ROLE": AUDIENCE,
        f"{prefix}_ROLE_POLICY_ROLE": policy,
    }


@dataclass(frozen=True)
class Keys:
    """Temporary credentials."""

    access_key: str
    secret_key: str
    session_token: str


class OpenIdProvider:
    """``close`` ends it; its files are in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._key = directory / "signing.key"
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048",
                 "-out", str(self._key))  # fmt: skip
        self._server = _Server()
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._server.documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/keys",
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/keys": {"keys": [self._public_key()]},
        }
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    @property
    def discovery(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(
        self,
        subject: str = "system:serviceaccount:shop:cart",
        *,
        seconds: float = 3600.0,
        audience: str = AUDIENCE,
        **claims: Any,
    ) -> str:
        """A signed token that ends ``seconds`` from now."""
        now = time.time()
        body = {
            "iss": self.issuer, "sub": subject, "aud": [audience], "iat": int(now - 60),
            "nbf": int(now - 60), "exp": int(now + seconds), **claims,
        }  # fmt: skip
        head = {"alg": "RS256", "kid": _KEY_ID, "typ": "JWT"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (head, body))
        signature = _openssl("dgst", "-sha256", "-sign", str(self._key), data=text.encode())
        return f"{text}.{_base64(signature)}"

    def _public_key(self) -> dict[str, str]:
        text = _openssl("rsa", "-in", str(self._key), "-noout", "-modulus").decode()
        modulus = bytes.fromhex(text.strip().partition("=")[2])
        return {
            "kty": "RSA", "use": "sig", "alg": "RS256", "kid": _KEY_ID,
            "n": _base64(modulus), "e": _base64(b"\x01\x00\x01"),
        }  # fmt: skip


def exchange(sts: str, token: str, role: str = "") -> Keys:
    """Temporary credentials for a token, from a service's STS. Raises urllib's HTTPError."""
    values = {
        "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "WebIdentityToken": token,
    }  # fmt: skip
    if role:
        values["RoleArn"] = role
    data = urllib.parse.urlencode(values).encode()
    with urllib.request.urlopen(sts, data=data, timeout=20) as answer:
        root = ElementTree.fromstring(answer.read())
    found = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    return Keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])


@dataclass(frozen=True)
class WebIdentity:
    """A MinIO server whose STS is at its endpoint, and the provider it trusts."""

    server: S3Server
    provider: OpenIdProvider

    def keys(self) -> Keys:
        """New temporary credentials."""
        return exchange(self.server.endpoint, self.provider.token(), role_arn())


@contextmanager
def web_identity(directory: Path) -> Iterator[WebIdentity]:
    """Both, running; with their files in ``directory``."""
    provider = OpenIdProvider(directory)
    try:
        server = start_server("minio", directory, minio_environment(provider.discovery))
        try:
            found = WebIdentity(server, provider)
            wait_for(lambda: _exchanges(found), what="MinIO to exchange tokens")
            yield found
        finally:
            server.stop()
    finally:
        provider.close()


def _exchanges(found: WebIdentity) -> bool:
    """It serves objects a moment before it knows its identities."""
    try:
        found.keys()
    except urllib.error.HTTPError:
        return False
    return True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents: dict[str, Any] = {}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        document = self.server.documents.get(self.path)
        body = json.dumps(document).encode()
        self.send_response(200 if document is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _openssl(*arguments: str, data: bytes | None = None) -> bytes:
    return subprocess.run(
        ["openssl", *arguments], input=data, check=True, capture_output=True, timeout=60
    ).stdout
