"""Whose identity a volume is made, read and written with.

A *secret* of the volume (``csi.storage.k8s.io/provisioner-secret-name``, ``nodePublishSecretRef``
and the like) holds a key pair and may name endpoint, region and role; the *pod*'s service account
token is exchanged for a role; else it is the *driver*'s own.
"""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import SecretStr

from csi_slayer.config.driver import DriverStore
from csi_slayer.config.plain import check_key, check_plain, check_region
from csi_slayer.config.store import check_endpoint
from csi_slayer.errors import AccessDenied, ConfigError
from csi_slayer.volumes.parameters import Authentication, VolumeParameters

TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
"""Where the kubelet puts tokens: in the volume context or, newer ones, among the secrets."""

_SERVICE_ACCOUNT = "csi.storage.k8s.io/serviceAccount.name"
_NAMESPACE = "csi.storage.k8s.io/pod.namespace"

# What may stand around a value in a Secret, and is no part of it.
_AROUND = " \t\r\n"

# Fields of Connection that are the identity; the rest is the way to the service.
IDENTITY_FIELDS = (
    "profile",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "role_arn",
    "web_identity_token_file",
    "anonymous",
)

_SPELLINGS: Mapping[str, str] = MappingProxyType(
    {
        "access_key_id": "access_key_id",
        "accessKeyID": "access_key_id",
        "accessKeyId": "access_key_id",
        "AWS_ACCESS_KEY_ID": "access_key_id",
        "secret_access_key": "secret_access_key",
        "secretAccessKey": "secret_access_key",
        "AWS_SECRET_ACCESS_KEY": "secret_access_key",
        "session_token": "session_token",
        "sessionToken": "session_token",
        "AWS_SESSION_TOKEN": "session_token",
        "endpoint": "endpoint",
        "region": "region",
        "role_arn": "role_arn",
        "roleArn": "role_arn",
    }
)

_CHECKS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "access_key_id": check_plain,
        "secret_access_key": check_key,
        "session_token": check_plain,
        "endpoint": check_endpoint,
        "region": check_region,
        "role_arn": check_plain,
    }
)


@dataclass(frozen=True, slots=True)
class Secret:
    """A Kubernetes Secret's values. Its repr shows none that is secret."""

    access_key_id: str
    secret_access_key: SecretStr
    session_token: SecretStr | None = None
    endpoint: str | None = None
    region: str | None = None
    role_arn: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """``name``: stable text without a secret; volume and name together have one worker.
    ``kind``: SECRET, POD or DRIVER. ``fields``: of StoreConfig. ``secret``: where one was given."""

    kind: Authentication
    name: str
    fields: Mapping[str, object]
    secret: Secret | None = None

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"


def may_follow(name: str, later: str) -> bool:
    """Whether credentials of the identity ``later`` may take the place of those of ``name`` where
    a pod uses a volume: another key pair for the same role is what a rotated secret looks like; a
    renewed token has the same name."""
    before, after = name.split(":", 2), later.split(":", 2)
    return name == later or (before[0] == after[0] == "key" and before[2:] == after[2:])


def parse_secret(values: Mapping[str, str]) -> Secret | None:
    """A secret's values; None if there are none. Raises ConfigError, which shows no value."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if key == TOKENS:
            continue
        field = _SPELLINGS.get(key)
        if field is None:
            close = difflib.get_close_matches(key, list(_SPELLINGS), n=1, cutoff=0.4)
            nearest = close[0] if close else "access_key_id"
            raise ConfigError(f"secret: {key!r}: unknown key; did you mean {nearest}?")
        # A newline at the end is what `echo` and editors leave in a Secret's file.
        text = value.strip(_AROUND)
        if found.get(field, text) != text:
            raise ConfigError(f"secret: {field} is given twice, with different values")
        found[field] = text
    if not found:
        return None
    # A Secret without content asks for nobody's identity, and least for the driver's.
    for field in ("access_key_id", "secret_access_key"):
        if not found.get(field):
            missing = "missing" if field not in found else "empty"
            raise ConfigError(f"secret: {field} is {missing}: it needs a key pair")
    found = {field: text for field, text in found.items() if text}
    for field, text in found.items():
        try:
            _CHECKS[field](text)
        except ValueError as error:
            raise ConfigError(f"secret: {field}: {error}") from None
    token = found.get("session_token")
    return Secret(
        access_key_id=found["access_key_id"],
        secret_access_key=SecretStr(found["secret_access_key"]),
        session_token=SecretStr(token) if token else None,
        endpoint=found.get("endpoint"),
        region=found.get("region"),
        role_arn=found.get("role_arn"),
    )


async def provisioning_identity(
    driver: DriverStore, parameters: VolumeParameters, secrets: Mapping[str, str]
) -> Identity:
    """Who makes, copies and deletes: the secret where one is given, else the driver (there is no
    pod yet).

    Deletion knows no parameters, only the volume's id and the secret: so a role that is to make
    volumes belongs into the secret, not the class. Raises ConfigError, AccessDenied.
    """
    secret = parse_secret(secrets)
    wanted = parameters.authentication or Authentication.AUTO
    if wanted is Authentication.SECRET and secret is None:
        raise ConfigError(
            "authentication is secret, but no secret came with the call: name it in the storage"
            " class as csi.storage.k8s.io/provisioner-secret-name and -namespace"
        )
    if secret is not None and wanted in (Authentication.AUTO, Authentication.SECRET):
        return _by_secret(secret, None)
    return await driver_identity(driver)


async def publishing_identity(
    driver: DriverStore,
    parameters: VolumeParameters,
    secrets: Mapping[str, str],
    kubernetes: Mapping[str, str],
) -> Identity:
    """Who reads and writes for a pod. ``kubernetes``: what the kubelet added to the context.

    Raises ConfigError where what was asked for did not come, AccessDenied where the driver's own
    secret cannot be read.
    """
    secret = parse_secret(secrets)
    wanted = parameters.authentication or Authentication.AUTO
    if wanted is Authentication.AUTO:
        if secret is not None:
            wanted = Authentication.SECRET
        elif parameters.role_arn is not None:
            wanted = Authentication.POD
        else:
            wanted = Authentication.DRIVER
    if wanted is Authentication.SECRET:
        if secret is None:
            raise ConfigError(
                "authentication is secret, but no secret came with the call: name it as"
                " nodePublishSecretRef, or in the storage class as"
                " csi.storage.k8s.io/node-publish-secret-name and -namespace"
            )
        return _by_secret(secret, parameters.role_arn)
    if wanted is Authentication.POD:
        return _by_pod(parameters, {**kubernetes, **_tokens(secrets)})
    return await driver_identity(driver, parameters.role_arn)


def _tokens(secrets: Mapping[str, str]) -> dict[str, str]:
    return {TOKENS: secrets[TOKENS]} if TOKENS in secrets else {}


def _by_secret(secret: Secret, role_arn: str | None) -> Identity:
    role = role_arn or secret.role_arn
    name = f"key:{secret.access_key_id}" + (f":{role}" if role else "")
    fields = {
        "access_key_id": secret.access_key_id,
        "secret_access_key": secret.secret_access_key,
        "session_token": secret.session_token,
        "role_arn": role,
    }
    return Identity(Authentication.SECRET, name, fields, secret)


def _by_pod(parameters: VolumeParameters, kubernetes: Mapping[str, str]) -> Identity:
    token = _choose_token(kubernetes.get(TOKENS, ""), parameters.audience)
    who = f"{kubernetes.get(_NAMESPACE, '')}/{kubernetes.get(_SERVICE_ACCOUNT, '')}"
    if who.startswith("/") or who.endswith("/"):
        raise ConfigError(
            "authentication is pod, but the kubelet did not say which pod:"
            " the CSIDriver object needs podInfoOnMount: true"
        )
    role = parameters.role_arn
    fields = {"web_identity_token": token, "role_arn": role}
    return Identity(Authentication.POD, f"pod:{who}:{role or ''}", fields)


def _choose_token(text: str, audience: str | None) -> SecretStr:
    """The token for ``audience``, or the only one there is."""
    if not text:
        raise ConfigError(
            "authentication is pod, but no service account token came with the call:"
            " the CSIDriver object needs tokenRequests"
        )
    tokens = _parse_tokens(text)
    names = ", ".join(sorted(repr(name) for name in tokens))
    if audience is None:
        if len(tokens) != 1:
            raise ConfigError(f"the driver requests several tokens: set audience to one of {names}")
        return next(iter(tokens.values()))
    if audience not in tokens:
        raise ConfigError(
            f"audience: the driver requests no token for it, only for {names}: add it to"
            " tokenRequests of the CSIDriver object"
        )
    return tokens[audience]


def _parse_tokens(text: str) -> dict[str, SecretStr]:
    """Tokens by audience. An inline volume's author may have written the text, where the kubelet
    writes none: what is no token must not pass for one, or for the wish to have none."""
    try:
        found = json.loads(text)
        tokens = {audience: entry["token"] for audience, entry in found.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{TOKENS}: not the JSON object that a kubelet sends") from None
    for audience, token in tokens.items():
        if not isinstance(token, str) or not token.strip():
            raise ConfigError(
                f"{TOKENS}: the token for {audience!r} is empty or not a text: the kubelet sends"
                " one, nobody else has to"
            )
        try:
            check_plain(token)
        except ValueError as error:
            raise ConfigError(f"{TOKENS}: the token for {audience!r}: {error}") from None
    return {audience: SecretStr(token) for audience, token in tokens.items()}


async def driver_identity(driver: DriverStore, role_arn: str | None = None) -> Identity:
    """The driver's own; ``role_arn``: a role that it assumes instead of its configured one."""
    fields: dict[str, object] = {name: getattr(driver, name) for name in IDENTITY_FIELDS}
    if driver.secret_directory is not None:
        fields.update(await asyncio.to_thread(_read_directory, driver.secret_directory))
    if role_arn is not None:
        fields["role_arn"] = role_arn
    return Identity(Authentication.DRIVER, "driver" + (f":{role_arn}" if role_arn else ""), fields)


def _read_directory(directory: Path) -> dict[str, object]:
    """A mounted Secret. Its files change together, by one symlink: read below one of its targets,
    so that a key id and the secret of another never meet."""
    try:
        current = directory / "..data"
        place = current.resolve(strict=True) if current.is_symlink() else directory
        values: dict[str, str] = {
            name: (place / name).read_text().strip()
            for name in ("access_key_id", "secret_access_key")
        }
        token = place / "session_token"
        values["session_token"] = token.read_text().strip() if token.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise AccessDenied(
            f"the driver's credentials in {directory}: {reason}: it needs the files"
            " access_key_id and secret_access_key"
        ) from None
    if not values["access_key_id"] or not values["secret_access_key"]:
        raise AccessDenied(f"the driver's credentials in {directory}: a file is empty")
    for name, value in values.items():
        try:
            _CHECKS[name](value)
        except ValueError as error:
            raise AccessDenied(
                f"the driver's credentials in {directory}: {name}: {error}"
            ) from None
    return {
        "access_key_id": values["access_key_id"],
        "secret_access_key": SecretStr(values["secret_access_key"]),
        "session_token": SecretStr(values["session_token"]) if values["session_token"] else None,
    }
