"""What a worker is told: a volume's configuration and its places on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import xxhash

from csi_slayer.config import MountConfig
from csi_slayer.content.options import ContentOptions, Live
from csi_slayer.errors import ConfigError
from csi_slayer.store.options import CredentialOptions, ObjectOptions, StoreOptions
from csi_slayer.vfs.options import VfsOptions

LONGEST_DRAIN = 3600.0
"""Seconds for which a client of the control socket may wait for uploads."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """``config`` is MountConfig.to_spec(): it holds secrets and goes through a socket only.

    ``labels`` are on each metric and log line; a ``volume`` among them replaces the id there.
    ``governs``: whether this process may keep the cache within its capacity; False where another
    process of the machine does that for all workers (:mod:`csi_slayer.cache.governor`).
    """

    volume: str
    mountpoint: str
    control: str
    config: str = field(repr=False)
    labels: dict[str, str] = field(default_factory=dict)
    governs: bool = True

    def to_message(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_message(message: dict[str, Any]) -> WorkerSpec:
        """What a supervisor of a later version may have added is left out. Raises ConfigError."""
        try:
            names = {item.name for item in fields(WorkerSpec)}
            return WorkerSpec(**{name: message[name] for name in message if name in names})
        except TypeError as error:
            raise ConfigError(f"malformed worker spec: {error}") from None


def volume_id(config: MountConfig, mountpoint: str) -> str:
    """A stable name for this volume at this place: its staged writes are found by it again, also
    if the URL is written with a slash at its end, which means the same."""
    url = config.store.url.removesuffix("/")
    text = "\0".join((url, config.store.endpoint or "", mountpoint))
    return xxhash.xxh3_128_hexdigest(text.encode())[:16]


def state_directory(config: MountConfig, volume: str) -> Path:
    """Catalog, handle table and log of a volume."""
    return config.cache.directory / "volumes" / volume


def store_options(config: MountConfig, observer: Any) -> StoreOptions:
    store = config.store
    secret = store.secret_access_key
    token = store.session_token
    web_token = store.web_identity_token
    return StoreOptions(
        endpoint=store.endpoint,
        region=store.region,
        path_style=store.path_style,
        ca_bundle=str(store.ca_bundle) if store.ca_bundle else None,
        verify_tls=store.verify_tls,
        proxy=store.proxy,
        no_proxy=store.no_proxy,
        credentials=CredentialOptions(
            access_key=store.access_key_id,
            secret_key=secret.get_secret_value() if secret is not None else None,
            session_token=(token.get_secret_value() or None) if token is not None else None,
            profile=store.profile,
            role_arn=store.role_arn,
            token=web_token.get_secret_value() if web_token is not None else None,
            token_file=str(store.web_identity_token_file)
            if store.web_identity_token_file
            else None,
            sts_endpoint=store.sts_endpoint,
            ambient=store.ambient,
        ),
        objects=ObjectOptions(
            storage_class=store.storage_class,
            encryption=store.encryption,
            kms_key_id=store.kms_key_id,
            requester_pays=store.requester_pays,
            owner=store.bucket_owner,
        ),
        anonymous=store.anonymous,
        # One silent attempt must not outlast what a read may wait in all.
        request_timeout=min(store.request_timeout, config.volume.io_timeout),
        connect_timeout=store.connect_timeout,
        retry_deadline=min(store.retry_deadline, config.volume.io_timeout),
        max_connections=store.max_connections,
        transfer_threads=store.transfer_threads,
        observer=observer,
    )


def live_options(config: MountConfig) -> Live:
    wanted = config.volume
    return Live(
        durability=wanted.durability.value,
        metadata_ttl=wanted.metadata_ttl,
        negative_ttl=wanted.negative_ttl,
        close_to_open=wanted.close_to_open,
        quota=wanted.quota,
        prefetch=wanted.prefetch,
        open_wait=wanted.open_wait,
    )


def content_options(config: MountConfig, volume: str, tenant: str, live: Live) -> ContentOptions:
    wanted = config.volume
    return ContentOptions(
        volume=volume,
        tenant=tenant,
        live=live,
        part_size=wanted.part_size,
        hydrate_max=wanted.hydrate_max,
        segment_max=config.cache.segment_max,
        write_timeout=wanted.io_timeout,
        posix=wanted.attributes == "posix",
        readahead_transfers=max(2, config.store.transfer_threads),
    )


def asked_at_open(config: MountConfig) -> list[str]:
    """Settings for which each open has to be asked about: a kernel that opens files by itself asks
    nobody for their version, and waits for nothing."""
    names = ("close_to_open", "open_wait")
    return [f"volume.{name}" for name in names if getattr(config.volume, name)]


def vfs_options(config: MountConfig, live: Live) -> VfsOptions:
    wanted = config.volume
    return VfsOptions(
        read_only=wanted.read_only,
        zero_upcall=wanted.zero_upcall and wanted.read_only and not asked_at_open(config),
        posix=wanted.attributes == "posix",
        live=live,
    )
