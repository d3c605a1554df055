"""Reading configuration files and merging them: defaults < file < options."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from csi_slayer.config.base import Section
from csi_slayer.config.driver import DriverConfig
from csi_slayer.config.mount import MountConfig
from csi_slayer.config.problems import explain
from csi_slayer.errors import ConfigError

Model = TypeVar("Model", bound=Section)

_LARGEST_FILE = 1 << 20
_OPTION = "option"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader, but a key given twice is an error instead of a silent loss of the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) != len(node.value) and not any(
            key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value
        ):
            raise yaml.constructor.ConstructorError(
                problem="a key is given twice", problem_mark=node.start_mark
            )
        return mapping


def _parse_yaml(path: Path, text: str) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        # str(error) quotes lines of the file, which may hold secrets.
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = _QUOTED.sub("...", error.problem or "a syntax error")
        raise ConfigError(f"{path}: not valid YAML{where}: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"{path}: not valid YAML") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        raise ValueError("a key is given twice")
    return mapping


def _parse_json(path: Path, text: str) -> object:
    # Not as YAML, of which it is almost a part: that knows no tabs and no surrogates.
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{path}: not valid JSON: {why}") from None


def _parse_toml(path: Path, text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {_QUOTED.sub('...', str(error))}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not valid TOML") from None


_PARSERS = {".yaml": _parse_yaml, ".yml": _parse_yaml, ".json": _parse_json, ".toml": _parse_toml}


def read_config_file(path: Path) -> dict[str, Any]:
    """The raw mapping of a file, by its extension. Raises ConfigError."""
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise ConfigError(f"{path}: expected a file named *.yaml, *.yml, *.json or *.toml")
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    if len(raw) > _LARGEST_FILE:
        raise ConfigError(f"{path}: larger than {_LARGEST_FILE} bytes")
    content = parse(path, text)
    if content is None:  # an empty YAML file
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections with keys at the top")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: a key at the top is not a text")
    return content


def _nest(options: Mapping[str, object]) -> dict[str, Any]:
    """``{"volume.read_only": True}`` to ``{"volume": {"read_only": True}}``; skips None.

    Raises ConfigError for a key below one that has a value of its own.
    """
    nested: dict[str, Any] = {}
    for dotted, value in options.items():
        if value is None:
            continue
        *sections, name = dotted.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{_OPTION}: {section}: expected a section with keys")
        target[name] = value
    return nested


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict):
            # A section that the file left empty (`volume:`) reads as None.
            merged[key] = _merge(below, value) if isinstance(below, dict) else value
        else:
            merged[key] = value
    return merged


def _has(tree: object, path: tuple[str | int, ...]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def load_config(
    path: Path | None = None, overrides: Mapping[str, object] | None = None
) -> MountConfig:
    """What a mount is told: defaults, then the file at ``path``, then ``overrides``.

    ``overrides`` maps dotted keys to values; None means "not given".

    Raises ConfigError that lists every problem with its key and where it was set; it never
    contains a value.
    """
    return _load(MountConfig, path, overrides)


def load_driver_config(path: Path) -> DriverConfig:
    """What the driver's processes are told. Raises ConfigError as :func:`load_config` does."""
    return _load(DriverConfig, path, None)


def _load(model: type[Model], path: Path | None, overrides: Mapping[str, object] | None) -> Model:
    from_file = read_config_file(path) if path is not None else {}
    from_options = _nest(overrides or {})
    merged = _merge({k: v for k, v in from_file.items() if v is not None}, from_options)
    merged.setdefault("store", {})  # so that the error names the key in it that is missing

    def source(loc: tuple[str | int, ...]) -> str:
        if _has(from_options, loc) or path is None:
            return _OPTION
        return str(path)

    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(model, error, source)) from None
