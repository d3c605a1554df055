"""Configuration files whose secrets others can read."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import SecretStr

from csi_slayer.config.loader import read_config_file
from csi_slayer.config.store import Connection

_SECRETS = frozenset(
    name
    for name, field in Connection.model_fields.items()
    if SecretStr in (field.annotation, *get_args(field.annotation))
)


def exposed_secrets(path: Path) -> list[str]:
    """Keys of secrets in a file that others than its owner may read. Raises ConfigError."""
    store = read_config_file(path).get("store")
    if not isinstance(store, dict):
        return []
    found = sorted(name for name in _SECRETS if store.get(name))
    try:
        mode = path.stat().st_mode
    except OSError:
        return []  # it is gone: whoever could have read it cannot any more
    return found if mode & 0o077 else []
