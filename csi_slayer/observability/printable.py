"""Texts of others (names in a volume, a server's words) on a person's terminal."""

from __future__ import annotations

import re

# What moves the cursor, gives a terminal commands or turns the direction of a line round: control
# characters but the ends of lines and tabs, marks and overrides of direction, halves of characters.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """``text`` with such characters as JSON escapes them, so that a line of JSON stays the same."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
