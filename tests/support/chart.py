"""The Helm chart: where it is, and the parts of its schema that are made from the code.

``python -m tests.support.chart`` writes those parts into values.schema.json (``make docs``).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from csi_slayer.config.driver import DriverConfig
from csi_slayer.volumes.parameters import VolumeParameters

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "slayerfs"
SCHEMA = CHART / "values.schema.json"

SET_BY_CHART = frozenset(
    {
        "store.ca_bundle", "store.secret_directory", "store.role_arn",
        "store.web_identity_token_file",
        "cache.directory",
        "node.kubelet_directory", "node.run_directory", "node.keeper", "node.name",
        "controller.socket",
        "metrics.listen",
    }
)  # fmt: skip
"""Keys of the driver's configuration that other values, or the pod, decide."""

NOT_IN_A_POD = frozenset(
    {
        # Secrets do not belong in a ConfigMap.
        "store.access_key_id", "store.secret_access_key", "store.session_token",
        "store.web_identity_token",
        # Files of a person's account.
        "store.profile",
        # The chart's volumes and probes rely on their defaults.
        "node.register_with_kubelet", "fuse.allow_other", "log.file",
    }
)  # fmt: skip
"""Keys that the chart does not offer."""

SECRETS = ("secret", "provisioner-secret", "node-publish-secret", "controller-expand-secret",
           "controller-modify-secret", "node-expand-secret")  # fmt: skip
"""Kinds of secrets that a storage class may name; ``secret`` stands for all of them."""


def _section(model: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
    """``schema`` of a pydantic model with sections inlined, as strict as the model is."""
    properties = {}
    for name, value in schema["properties"].items():
        dotted = f"{path}{name}"
        if dotted in SET_BY_CHART | NOT_IN_A_POD:
            continue
        target = _resolve(model, value)
        if "properties" in target:
            properties[name] = _section(model, target, f"{dotted}.")
        else:
            properties[name] = _value(model, value)
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: value for name, value in properties.items() if value != _EMPTY},
    }


_EMPTY: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
_KEPT = frozenset(
    {
        "additionalProperties", "anyOf", "const", "enum", "exclusiveMinimum", "items", "maxLength",
        "maximum", "minLength", "minimum", "type",
    }
)  # fmt: skip


def _resolve(model: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    reference = value.get("$ref")
    return value if reference is None else model["$defs"][reference.rpartition("/")[2]]


def _value(model: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    value = _resolve(model, value)
    kept = {key: item for key, item in value.items() if key in _KEPT}
    if "anyOf" in kept:
        kept["anyOf"] = [_value(model, item) for item in kept["anyOf"]]
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = _value(model, kept[key])
    return kept


def driver() -> dict[str, Any]:
    """What ``driver`` may say: the driver's configuration, less what the chart decides."""
    model = DriverConfig.model_json_schema()
    schema = _section(model, model, "")
    schema["properties"]["volumes"] = parameters()
    return schema


def parameters(*, secrets: Iterable[str] = (), mutable: bool = False) -> dict[str, Any]:
    """Volume parameters as texts; ``mutable``: only those of a VolumeAttributesClass."""
    model = VolumeParameters.model_json_schema()
    properties = {
        name: _text(_value(model, value))
        for name, value in model["properties"].items()
        if value["mutable"] or not mutable
    }
    for kind in secrets:
        for part in ("name", "namespace"):
            properties[f"csi.storage.k8s.io/{kind}-{part}"] = {"type": "string"}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _text(value: dict[str, Any]) -> dict[str, Any]:
    """What a text must be to be such a value; Kubernetes' parameters are all texts."""
    match [item for item in value["anyOf"] if item.get("type") != "null"]:
        case [{"type": "boolean"}]:
            return {"enum": ["true", "false"]}
        case [{"type": "integer"}]:
            return {"type": "string", "pattern": "^[0-9]+$"}
        case [{"enum": names}]:
            return {"enum": names}
    return {"type": "string"}


def schema() -> dict[str, Any]:
    """The chart's schema with its generated definitions as the code has them now."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found["definitions"] |= {
        "driver": driver(),
        "parameters": parameters(secrets=SECRETS),
        "mutableParameters": parameters(mutable=True),
    }
    return found


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"


def main() -> int:
    text = schema_text()
    if SCHEMA.read_text(encoding="utf-8") != text:
        SCHEMA.write_text(text, encoding="utf-8")
        print(f"written: {SCHEMA.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
