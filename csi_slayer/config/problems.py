"""From pydantic's errors to one readable message.

No value of the configuration is ever repeated: a secret may stand in any line by mistake.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Path = tuple[str | int, ...]

_EXPECTED = {
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
    "tuple_type": "a list, such as [name, name]",
    "string_type": "a text: write a number in quotes",
}
"""By pydantic's name of the error, whose own text is for programmers."""


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def known_keys(model: type[BaseModel], parent: str = "") -> list[str]:
    """Dotted names of all keys of a model, sections included."""
    keys = []
    for name, field in model.model_fields.items():
        dotted = f"{parent}{field.alias or name}"
        keys.append(dotted)
        section = section_of(field)
        if section is not None:
            keys += known_keys(section, f"{dotted}.")
    return keys


def nearest_key(model: type[BaseModel], dotted: str) -> str | None:
    """The valid key that an unknown one most likely means, or None.

    A key of the right name in the wrong section counts, too: ``read_only`` at the top is
    ``volume.read_only``.
    """
    keys = known_keys(model)
    name = dotted.rpartition(".")[2]
    for same_name in (key for key in keys if key.rpartition(".")[2] == name):
        return same_name
    close = difflib.get_close_matches(dotted, keys, n=1, cutoff=0.6)
    if close:
        return close[0]
    by_name = {key.rpartition(".")[2]: key for key in reversed(keys)}
    close = difflib.get_close_matches(name, list(by_name), n=1, cutoff=0.6)
    return by_name[close[0]] if close else None


def _describe(model: type[BaseModel], error: Any) -> str:
    dotted = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        nearest = nearest_key(model, dotted)
        hint = f"; did you mean {nearest}?" if nearest else ""
        if nearest == dotted:  # one key with a dot in it, as options have it
            section, _, name = dotted.rpartition(".")
            hint = f"; in a file {name} stands below {section}"
        return f"{dotted}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{dotted}: required, but not set"
    if error["type"] in _EXPECTED:
        return f"{dotted}: expected {_EXPECTED[error['type']]}"
    text = error["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    return f"{dotted}: {text}" if dotted else text


def explain(model: type[BaseModel], error: ValidationError, source: Callable[[Path], str]) -> str:
    """All problems of a configuration, one a line; ``source`` names where a key was set."""
    lines: list[str] = []
    details: Sequence[Any] = error.errors(
        include_url=False, include_context=False, include_input=False
    )
    for detail in details:
        if detail["type"] == "default_factory_not_called":
            continue  # only says that a field on which this one's default depends was wrong
        line = f"{source(detail['loc'])}: {_describe(model, detail)}"
        if line not in lines:
            lines.append(line)
    if len(lines) == 1:
        return lines[0]
    return "\n".join([f"{len(lines)} problems in the configuration:", *(f"  {x}" for x in lines)])
