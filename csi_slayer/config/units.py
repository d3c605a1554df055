"""Sizes, durations and modes as people write them.

The parsers raise ``ValueError`` with a text that never repeats the value: it may be a secret that
was pasted into the wrong line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from csi_slayer.config.plain import check_text

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MODE = re.compile(r"(?:0o?)?([0-7]{3,4})", re.ASCII)

_LARGEST = 2**63 - 1
_LONGEST_NUMBER = 40
_LONGEST = 10 * 366 * 86400.0

_SIZE_HELP = "expected a size such as 10GiB, 500MB or a number of bytes"
_DURATION_HELP = "expected a duration such as 30s, 5m, 1h or a number of seconds"
_MODE_HELP = 'expected permission bits as a quoted octal string such as "0644"'


def parse_size(value: object) -> int:
    """Bytes from an int or a text: ``KiB``, ``MiB``... count in 1024, ``KB``, ``MB``... in 1000.

    A unit without B (``10G``, ``10Gi``) means the same as with it. What no file could have is none.
    """
    size = _parse_size(value)
    if not 0 <= size <= _LARGEST:
        raise ValueError(_SIZE_HELP)
    return size


def _parse_size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    match = _SIZE.fullmatch(text) if len(text) < _LONGEST_NUMBER else None
    if match is None or (match[3] and not match[2]):
        raise ValueError(_SIZE_HELP)
    factor = (1024 if match[3] else 1000) ** _POWERS[match[2].lower()]
    # Whole numbers never pass through a float: it would lose the low bits of large sizes.
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def format_size(size: int) -> str:
    """The shortest text that :func:`parse_size` reads back as exactly ``size``."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        factor = parse_size(f"1{unit}")
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def parse_duration(value: object) -> float:
    """Seconds from a number or a text; parts may follow each other (``1h30m``). At most ten years:
    no clock or timer has trouble with that."""
    seconds = _parse_duration(value)
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(_DURATION_HELP)
    return seconds


def _parse_duration(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError(_DURATION_HELP)
    text = value.strip().lower()
    if re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII):
        return float(text)
    total, position = 0.0, 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if match is None:
            raise ValueError(_DURATION_HELP)
        total += float(match[1]) * _SECONDS[match[2]]
        position = match.end()
    if not text:
        raise ValueError(_DURATION_HELP)
    return total


def format_duration(seconds: float) -> str:
    """A text that :func:`parse_duration` reads back as ``seconds``, in the largest whole unit."""
    for unit in ("h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{int(seconds // _SECONDS[unit])}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


def parse_mode(value: object) -> int:
    """Permission bits from an octal string (``"0644"``, ``"644"``, ``"0o644"``).

    A bare number is refused: YAML reads ``0644`` as octal and ``644`` as decimal, so that only
    quoting says what is meant.
    """
    match = _MODE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_MODE_HELP)
    return int(match[1], 8)


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str)]
Mode = Annotated[
    int,
    BeforeValidator(parse_mode, json_schema_input_type=str),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str, when_used="json"),
]


def expanded(path: Path) -> Path:
    """With a leading ``~`` replaced. Raises ValueError for a user without a home directory, and
    for what is no text."""
    check_text(str(path))
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("~ stands for a home directory that is not known") from None


HerePath = Annotated[Path, AfterValidator(lambda path: expanded(path).absolute())]
"""A relative one is meant from where the command runs: a mount's processes work elsewhere."""
