"""Texts that become part of a request's head: what is not plain there is a server's riddle.

The usual causes are a Secret that was filled by hand, a line break of ``base64``, and a letter
from another alphabet that looks like one of ours. No error repeats a value.
"""

from __future__ import annotations

import re
from typing import Final

_REGION = re.compile(r"[A-Za-z0-9._:+-]*", re.ASCII)

NOT_PLAIN: Final = (
    "expected printable ASCII characters without white space: copy it again, without line breaks"
)


def check_plain(value: str) -> str:
    """A key id, a token, a role. Raises ValueError."""
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError(NOT_PLAIN)
    return value


def check_key(value: str) -> str:
    """A secret key, which is never sent: some servers allow spaces in it. Raises ValueError."""
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise ValueError(NOT_PLAIN)
    return value


def check_region(value: str) -> str:
    """A region, which is also part of host names. Raises ValueError."""
    if not _REGION.fullmatch(value):
        raise ValueError("expected letters, digits and hyphens, such as eu-central-1")
    return value


def check_text(value: str) -> str:
    """What becomes part of a key or a path. Raises ValueError."""
    if "\0" in value:
        raise ValueError("a NUL character cannot be part of it")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("expected UTF-8 text") from None
    return value
