"""Web identity tokens (JSON Web Tokens, RFC 7519): where they are, whose they are, when they end.

Nothing is verified here: that is the business of the service that exchanges them. What a token
says of itself serves to name an identity after the exchange, and to explain a refusal.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from csi_slayer.errors import AccessDenied


class TokenSource(Protocol):
    def read(self) -> str:
        """The token of this moment. Blocking. Raises AccessDenied."""


@dataclass(frozen=True, slots=True, repr=False)
class GivenToken:
    """A token that somebody handed over."""

    token: str

    def read(self) -> str:
        if not self.token:
            raise AccessDenied("web identity token: empty")
        return self.token


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A file that somebody keeps up to date (Kubernetes does)."""

    path: str

    def read(self) -> str:
        try:
            token = Path(self.path).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not ASCII text"
            raise AccessDenied(f"web identity token file {self.path}: {reason}") from None
        if not token:
            raise AccessDenied(f"web identity token file {self.path}: empty")
        return token


def claims(token: str) -> dict[str, Any]:
    """What the token says of itself; empty if it cannot be read."""
    try:
        body = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def subject(token: str) -> str:
    """Who the token is about and who says so: the same for all tokens of one workload."""
    said = claims(token)
    return json.dumps([said.get("iss"), said.get("sub"), said.get("aud")])


def ended_ago(token: str) -> float | None:
    """Seconds since the token ended; None if it has not, or does not say."""
    end = claims(token).get("exp")
    if not isinstance(end, int | float):
        return None
    ago = time.time() - end
    return ago if ago >= 0 else None
