"""A key pair and when it ends."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, repr=False)
class AccessKeys:
    """Credentials of one moment; ``expires`` in seconds since 1970, None for never."""

    access_key: str
    secret_key: str
    session_token: str | None = None
    expires: float | None = None

    def __repr__(self) -> str:
        """Say nothing: reprs end up in logs."""
        return "AccessKeys(...)"
