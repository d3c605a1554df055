"""The configuration's fields as a list, for documentation and ``--help``."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from csi_slayer.config.mount import MountConfig
from csi_slayer.config.problems import section_of
from csi_slayer.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_mode,
    parse_size,
)

_UNITS = {parse_size: "size", parse_duration: "duration", parse_mode: "mode"}
_NAMES = {bool: "boolean", int: "integer", float: "number", str: "text", Path: "path"}


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """One key. ``default`` is text as one would write it; ``required`` keys have none."""

    path: str
    type: str
    default: str
    required: bool
    description: str


def _unit(metadata: list[Any]) -> str | None:
    for item in metadata:
        name = _UNITS.get(getattr(item, "func", None))  # type: ignore[arg-type]
        if name is not None:
            return name
    return None


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(str(member.value) for member in annotation)
    if annotation is SecretStr:
        return "secret"
    if get_origin(annotation) is tuple:
        return "list of texts"
    if get_origin(annotation) is dict:
        return "map of texts"
    if annotation in _NAMES:
        return _NAMES[annotation]
    if hasattr(annotation, "__metadata__"):
        return _unit(list(annotation.__metadata__)) or _type_name(annotation.__origin__)
    members = [arg for arg in get_args(annotation) if arg is not type(None)]
    return " | ".join(_type_name(member) for member in members)


def _default(field: FieldInfo, type_name: str) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "default_text" in extra:
        return str(extra["default_text"])
    value = field.default
    if field.is_required():
        return ""
    if field.default_factory is dict:
        return "{}"
    if value is None:
        return "none"
    if type_name == "size":
        return format_size(value)
    if type_name == "duration":
        return format_duration(value)
    if isinstance(value, bool):
        return str(value).lower()
    if value == ():
        return "[]"
    return str(value.value if isinstance(value, enum.Enum) else value)


def describe_fields(
    model: type[BaseModel] = MountConfig, parent: str = ""
) -> list[FieldDescription]:
    """All keys in the order of the models, sections flattened to dotted paths."""
    fields: list[FieldDescription] = []
    for name, field in model.model_fields.items():
        dotted = f"{parent}{name}"
        section = section_of(field)
        if section is not None:
            fields += describe_fields(section, f"{dotted}.")
            continue
        type_name = _unit(field.metadata) or _type_name(field.annotation)
        fields.append(
            FieldDescription(
                path=dotted,
                type=type_name,
                default=_default(field, type_name),
                required=field.is_required(),
                description=field.description or "",
            )
        )
    return fields
