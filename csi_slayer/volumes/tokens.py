"""Paging tokens: where a listing goes on. The store keeps its own order, so a token is just the
last name; it says nothing that a caller could rely on, and is checked when it comes back."""

from __future__ import annotations

import base64
import binascii

from csi_slayer.errors import VolumeBusy
from csi_slayer.volumes.ids import Kind, valid_name


def make(kind: Kind, name: str) -> str:
    """The token to go on behind ``name``; empty for an empty name, which means the end."""
    if not name:
        return ""
    return base64.urlsafe_b64encode(f"{kind.value}/{name}".encode()).decode()


def read(kind: Kind, token: str) -> str:
    """The name in a token of this kind of listing; empty for an empty token, the beginning.

    Raises VolumeBusy: the code that the CSI spec has for a token that is not valid (any more).
    """
    if not token:
        return ""
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    prefix, _, name = text.partition("/")
    if prefix != kind.value or not valid_name(name):
        raise VolumeBusy("starting_token: not one of this driver's: list again from the beginning")
    return name
