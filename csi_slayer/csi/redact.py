"""What of a request may be shown: everything but its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from csi_slayer.csi.proto import csi_pb2

MASK: Final = "***"

TOKENS: Final = "csi.storage.k8s.io/serviceAccount.tokens"
"""Entry of the volume context with the pod's tokens: a JSON object by audience (CSIDriver's
``tokenRequests``)."""

# Nothing takes credentials in an address, but who puts them there does not want them in a log.
_USERINFO: Final = re.compile(r"(?<=://)[^/?#\s]*@")

# An extension: protoc's stubs take it for a plain field.
_CSI_SECRET: Final[Any] = csi_pb2.csi_secret

# Shorter ones are no secrets, and replacing them would spoil the text.
_SHORTEST: Final = 4


def is_secret(field: FieldDescriptor) -> bool:
    """Whether the specification marks the field ``csi_secret``."""
    return bool(field.GetOptions().Extensions[_CSI_SECRET])


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def shown(message: Message) -> dict[str, Any]:
    """The fields that are set, for a log line, with ``***`` in place of every secret value."""
    return {field.name: _shown_value(field, value) for field, value in message.ListFields()}


def _shown_value(field: FieldDescriptor, value: Any) -> Any:
    if is_map(field):
        hidden = is_secret(field)
        return {
            key: MASK if hidden or key == TOKENS else _without_userinfo(value[key])
            for key in sorted(value)
        }
    if is_secret(field):
        return MASK
    if field.is_repeated:
        return [_shown_item(field, item) for item in value]
    return _shown_item(field, value)


def _shown_item(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return shown(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return _without_userinfo(value)


def _without_userinfo(value: Any) -> Any:
    return _USERINFO.sub(f"{MASK}@", value) if isinstance(value, str) else value


def secrets_of(message: Message) -> set[str]:
    """Every text in the message that must not be shown, tokens in a JSON text one by one."""
    return {text for text in _secret_texts(message) if len(text) >= _SHORTEST}


def _secret_texts(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if is_map(field):
            hidden = is_secret(field)
            for key in value:
                if hidden or key == TOKENS:
                    yield value[key]
                    yield from _tokens(value[key])
        elif field.message_type is not None:
            for item in value if field.is_repeated else (value,):
                yield from _secret_texts(item)


def _tokens(text: str) -> Iterator[str]:
    """The texts in a JSON document; none where it is not JSON."""
    try:
        found = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while found:
        value = found.pop()
        if isinstance(value, dict):
            found += value.values()
        elif isinstance(value, list):
            found += value
        elif isinstance(value, str):
            yield value


def scrub(text: str, secrets: set[str]) -> str:
    """``text`` without the secrets, as they stand and as repr() and JSON write them."""
    # The longest first: one may begin with another.
    for secret in sorted(secrets, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
            text = text.replace(form, MASK)
    return text
