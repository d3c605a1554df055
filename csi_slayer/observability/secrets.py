"""Keeping secrets out of the logs.

Two nets: a value under a key that sounds like a secret is masked whatever it is, and a value that
was registered is masked wherever it turns up, tracebacks and foreign libraries' lines included.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from typing import Any, Final

MASK: Final = "***"

_SECRET_KEY = re.compile(
    r"secret|token|passw(?:or)?d|authorization|credential|private_?key|signature", re.IGNORECASE
)
# What signed URLs and headers carry, should a library log one.
_SECRET_TEXT = re.compile(
    r"(?i)((?:x-amz-(?:credential|security-token)|signature|authorization)[\"']?\s*[=:]\s*[\"']?)"
    r"(?:AWS4-HMAC-SHA256 |Bearer |Basic )?[^\s\"'&]+"
)
# Shorter ones would mask half of every line and are no secrets.
_SHORTEST_SECRET: Final = 4
_DEEPEST: Final = 8

_lock = threading.Lock()
_registered: set[str] = set()
_pattern: re.Pattern[str] | None = None


def register_secrets(values: Iterable[str], *, only: bool = False) -> None:
    """Mask these values in every later log line. Values under 4 characters are ignored.

    ``only``: and none of those registered before (credentials were rotated).
    """
    global _pattern
    with _lock:
        if only:
            _registered.clear()
        for value in values:
            if len(value) >= _SHORTEST_SECRET:
                # As it stands, and as JSON and repr() write it.
                _registered.update((value, json.dumps(value)[1:-1], repr(value)[1:-1]))
        # The longest first: one secret may begin with another.
        ordered = sorted(_registered, key=len, reverse=True)
        _pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None


def mask_text(text: str) -> str:
    """``text`` without registered secrets and without signatures of URLs and headers."""
    pattern = _pattern
    if pattern is not None:
        text = pattern.sub(MASK, text)
    return _SECRET_TEXT.sub(rf"\g<1>{MASK}", text)


def mask_event(event: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``event`` without secrets: by key and by value, in nested structures too."""
    return {key: _masked(key, value, 0) for key, value in event.items()}


def _masked(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and _SECRET_KEY.search(key) and value is not None:
        return MASK
    if isinstance(value, str):
        return mask_text(value)
    if depth >= _DEEPEST:
        return value
    if isinstance(value, dict):
        return {k: _masked(k, v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(None, item, depth + 1) for item in value]
    return value
