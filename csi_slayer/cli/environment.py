"""What a command takes from its environment into the configuration of a volume."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from pydantic import SecretStr

from csi_slayer.config import MountConfig
from csi_slayer.config.plain import check_key, check_plain
from csi_slayer.errors import ConfigError


def with_credentials(config: MountConfig) -> MountConfig:
    """Take explicit credentials out of the environment, which every process of this user can read
    for as long as the mount lasts, into the specification, which goes through a socket."""
    store = config.store
    secret, token = _take("AWS_SECRET_ACCESS_KEY"), _take("AWS_SESSION_TOKEN")
    key = os.environ.get("AWS_ACCESS_KEY_ID")
    elsewhere = (store.access_key_id, store.profile, store.web_identity_token_file)
    if not key or not secret or store.anonymous or any(value is not None for value in elsewhere):
        return config
    check_named("AWS_ACCESS_KEY_ID", key, check_plain)
    check_named("AWS_SECRET_ACCESS_KEY", secret, check_key)
    check_named("AWS_SESSION_TOKEN", token or "", check_plain)
    values = {"access_key_id": key, "secret_access_key": SecretStr(secret)}
    if token:
        values["session_token"] = SecretStr(token)
    return config.model_copy(update={"store": store.model_copy(update=values)})


def check_named(what: str, value: str, check: Callable[[str], str]) -> None:
    """Raises ConfigError with ``what`` in it where ``check`` raises ValueError."""
    try:
        check(value)
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None


def _take(variable: str) -> str | None:
    """The value of a variable, which is nowhere in the environment any more, nor in
    /proc/PID/environ: that shows the memory in which a program found its variables."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    address = libc.getenv(variable.encode())
    value = os.environ.get(variable)
    if address and value is not None:
        ctypes.memset(address, 0, len(os.fsencode(value)))
    return os.environ.pop(variable, None)
