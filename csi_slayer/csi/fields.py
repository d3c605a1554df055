"""What every request has to satisfy, whatever it asks: required fields, sizes, plain texts.

CSI spec v1.12, "Size Limits" and "Required vs. Optional". Everything refused here is an
INVALID_ARGUMENT whose message names the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf.message import Message

from csi_slayer.csi.redact import TOKENS, is_map, is_secret
from csi_slayer.errors import SlayerError

LONGEST_TEXT: Final = 128
"""Bytes of a text."""

LARGEST_MAP: Final = 4 << 10
"""Bytes of the keys and values of a map, and of the mount flags of a capability."""

LARGEST_SECRETS: Final = 64 << 10
"""The same of secrets, and of the pod's tokens in a volume context: session tokens and the tokens
of several audiences are larger than the specification foresees, and nothing is won by refusing."""

_LIMITS: Final[Mapping[str, int]] = {
    "target_path": 4095,  # PATH_MAX without the final zero: these override the general limit
    "staging_target_path": 4095,
    "volume_path": 4095,
    "node_id": 256,
    "error": LARGEST_MAP,  # of RegistrationStatus, which is not of CSI
    "mount_flags": LARGEST_MAP,  # a limit on all of them together
}
_IDS: Final = ("volume_id", "snapshot_id", "source_volume_id", "name")
# Those that the specification bans from names; nobody can want them in an id either.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class BadRequest(SlayerError):
    """The request breaks a rule of the specification; the message says which field and how."""

    grpc_code = "INVALID_ARGUMENT"


def check(request: Message, required: Iterable[str]) -> None:
    """Raises BadRequest for the first field that is missing, too large or not plain."""
    for name in required:
        if not _is_set(request, name):
            raise BadRequest(f"{name} is missing: {request.DESCRIPTOR.name} needs it")
    _check_fields(request)


def _is_set(request: Message, name: str) -> bool:
    field = request.DESCRIPTOR.fields_by_name[name]
    if field.has_presence:
        return request.HasField(name)
    return bool(getattr(request, name))


def _check_fields(message: Message) -> None:
    for field, value in message.ListFields():
        if is_map(field):  # all of CSI's are from text to text
            _check_map(field.name, value, LARGEST_SECRETS if is_secret(field) else LARGEST_MAP)
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                _check_fields(item)
        elif field.type == field.TYPE_STRING:
            _check_text(field.name, "".join(value) if field.is_repeated else value)


def _check_map(name: str, entries: Mapping[str, str], limit: int) -> None:
    size = sum(_size(key) + _size(value) for key, value in entries.items() if key != TOKENS)
    if size > limit:
        raise BadRequest(f"{name} has {size} bytes: at most {limit} are allowed")
    if _size(entries.get(TOKENS, "")) > LARGEST_SECRETS:
        raise BadRequest(f"{name}: the tokens have more than {LARGEST_SECRETS} bytes")


def _check_text(name: str, value: str) -> None:
    limit = _LIMITS.get(name, LONGEST_TEXT)
    if _size(value) > limit:
        raise BadRequest(f"{name} has {_size(value)} bytes: at most {limit} are allowed")
    if name in _IDS:
        _check_id(name, value)


def _check_id(name: str, value: str) -> None:
    if _CONTROL.search(value):
        raise BadRequest(f"{name} has a control character in it: use plain text")
    if name != "name" and any(part in (".", "..") for part in value.split("/")):
        raise BadRequest(f"{name} has '.' or '..' between slashes: use an id without")


def _size(text: Any) -> int:
    return len(str(text).encode())
