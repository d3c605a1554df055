"""From the texts of a class, claim, volume or mount option to parameters.

What is said several times counts in this order: the driver's configuration, then the class or the
volume's attributes, then what a VolumeAttributesClass changed, then the mount options.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError

from csi_slayer.config.problems import explain
from csi_slayer.errors import ConfigError
from csi_slayer.volumes.parameters import VolumeParameters

Texts = Mapping[str, str]

# What Kubernetes itself adds to parameters and attributes.
_KUBERNETES = ("csi.storage.k8s.io/", "storage.kubernetes.io/")

KEYS: Mapping[str, str] = MappingProxyType(
    {str(field.alias): name for name, field in VolumeParameters.model_fields.items()}
)
"""Names of the parameters in camelCase, and those of the model's fields."""


def _is_mutable(field: str) -> bool:
    extra = VolumeParameters.model_fields[field].json_schema_extra
    return isinstance(extra, dict) and extra.get("mutable") is True


MUTABLE = frozenset(key for key, field in KEYS.items() if _is_mutable(field))
"""Parameters that can be changed while the volume exists."""


def split(values: Texts) -> tuple[dict[str, str], dict[str, str]]:
    """What a person wrote, and what Kubernetes added (keys in ``csi.storage.k8s.io/`` and so)."""
    ours = {key: text for key, text in values.items() if not key.startswith(_KUBERNETES)}
    return ours, {key: text for key, text in values.items() if key not in ours}


def parse(values: Texts, source: str) -> VolumeParameters:
    """Parameters from texts. Raises ConfigError that names each wrong one, the nearest valid name
    of an unknown one, and ``source``; it repeats no value."""
    try:
        return VolumeParameters.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(VolumeParameters, error, lambda _: source)) from None


def parse_mutable(values: Texts, source: str) -> VolumeParameters:
    """The same where only what can be changed later is allowed."""
    parsed = parse(values, source)
    fixed = sorted(set(values) - MUTABLE)
    if fixed:
        raise ConfigError(
            f"{source}: {', '.join(fixed)}: fixed when the volume is made; what can be changed:"
            f" {', '.join(sorted(MUTABLE))}"
        )
    return parsed


def merge(*layers: VolumeParameters) -> VolumeParameters:
    """Each layer over the ones before it."""
    merged: dict[str, object] = {}
    for layer in layers:
        for name in layer.model_fields_set:
            value = getattr(layer, name)
            if value is not None:
                merged[name] = value
    return VolumeParameters.model_construct(_fields_set=set(merged), **merged)
