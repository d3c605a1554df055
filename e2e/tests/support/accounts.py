"""Accounts of the S3 server, each with its own key pair: versitygw's administration by HTTP."""

from __future__ import annotations

import secrets
import urllib.parse
import urllib.request

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from e2e.environment import REGION, Environment

_TIMEOUT = 10


class Accounts:
    """Of versitygw. An account that is made may do everything with every bucket."""

    def __init__(self, environment: Environment) -> None:
        self._endpoint = environment.s3["versitygw"]
        self._keys = environment.keys()

    def create(self, name: str) -> tuple[str, str]:
        """A new account; its access key, which is the name, and its secret key."""
        secret = secrets.token_hex(20)
        fields = {"Access": name, "Secret": secret, "Role": "admin"}
        inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in fields.items())
        self._ask("create-user", f"<Account>{inside}</Account>")
        return name, secret

    def delete(self, name: str) -> None:
        """Its keys are refused from now on."""
        self._ask(f"delete-user?{urllib.parse.urlencode({'access': name})}")

    def _ask(self, what: str, body: str = "") -> None:
        signed = AWSRequest("PATCH", f"{self._endpoint}/{what}", data=body.encode())
        S3SigV4Auth(Credentials(*self._keys), "s3", REGION).add_auth(signed)
        request = urllib.request.Request(
            signed.url, data=signed.data, headers=dict(signed.headers), method="PATCH"
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(request, timeout=_TIMEOUT).close()
