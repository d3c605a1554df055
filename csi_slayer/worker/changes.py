"""What of a new configuration a running worker can apply, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass

from csi_slayer.config import MountConfig

LIVE = frozenset(
    f"volume.{name}"
    for name in (
        "quota", "durability", "metadata_ttl", "negative_ttl", "close_to_open", "prefetch",
        "open_wait",
    )
)  # fmt: skip
"""In force from the next operation on."""

CREDENTIALS = frozenset(
    f"store.{name}"
    for name in (
        "access_key_id", "secret_access_key", "session_token", "web_identity_token", "sts_endpoint",
    )
)  # fmt: skip
"""In force once the store has accepted them."""

_LATER_SECTIONS = frozenset({"cache", "fuse", "log", "metrics", "tracing"})
LATER = frozenset(
    {
        "store.request_timeout", "store.connect_timeout", "store.retry_deadline",
        "store.transfer_threads", "store.max_connections", "store.ambient",
        "store.proxy", "store.no_proxy", "store.storage_class", "store.encryption",
        "store.kms_key_id", "store.requester_pays", "store.bucket_owner",
        "volume.io_timeout", "volume.part_size", "volume.hydrate_max",
    }
)  # fmt: skip
"""In force when the next worker takes over, as are :data:`_LATER_SECTIONS`: they are about the
machine, the way or objects to come, and an administrator who changes them wants no volume to stop
for it."""

FIXED = frozenset({"cache.directory"})
"""In those sections, yet fixed: what is staged is there."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys that differ, by what may become of them; ``fixed`` ones need a new mount."""

    live: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()


def compare(old: MountConfig, new: MountConfig) -> Changes:
    """All differences between two configurations."""
    found: dict[str, list[str]] = {"live": [], "credentials": [], "later": [], "fixed": []}
    for section in type(old).model_fields:
        before, after = getattr(old, section), getattr(new, section)
        for name in type(before).model_fields:
            if getattr(before, name) != getattr(after, name):
                key = f"{section}.{name}"
                found[_kind(section, key)].append(key)
    return Changes(**{kind: tuple(keys) for kind, keys in found.items()})


def _kind(section: str, key: str) -> str:
    if key in LIVE:
        return "live"
    if key in CREDENTIALS:
        return "credentials"
    if key in LATER or (section in _LATER_SECTIONS and key not in FIXED):
        return "later"
    return "fixed"
