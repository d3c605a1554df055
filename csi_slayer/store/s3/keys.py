"""A key pair and when it ends."""

from __future__ import annotations

from dataclasses import dataclass

from csi_slayer.config.plain import check_key, check_plain
from csi_slayer.errors import AccessDenied


@dataclass(frozen=True, slots=True, repr=False)
class AccessKeys:
    """Credentials of one moment; ``expires`` in seconds since 1970, None for never. Raises
    AccessDenied for what cannot be in a request's head."""

    access_key: str
    secret_key: str
    session_token: str | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        try:
            what = "key id"
            check_plain(self.access_key)
            what = "secret key"
            check_key(self.secret_key)
            what = "session token"
            check_plain(self.session_token or "")
        except ValueError as error:
            raise AccessDenied(f"credentials: {what}: {error}") from None

    def __repr__(self) -> str:
        """Say nothing: reprs end up in logs."""
        return "AccessKeys(...)"
