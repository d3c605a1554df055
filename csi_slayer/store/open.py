"""The way to a store."""

from __future__ import annotations

from csi_slayer.errors import ConfigError
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.options import StoreOptions


async def open_store(url: str, options: StoreOptions) -> ObjectStore:
    """The store at ``s3://bucket/prefix`` or ``file:///directory``, of the running event loop.

    Loads credentials but sends nothing to the bucket: that is ``check()``. Raises ConfigError for
    a URL or option that cannot be, AccessDenied where no credentials are to be had, BucketNotFound
    for a directory that is missing.
    """
    scheme = url.partition("://")[0]
    if scheme == "s3":
        from csi_slayer.store.s3.open import open_s3

        return await open_s3(url, options)
    if scheme == "file":
        from csi_slayer.store.local.open import open_local

        return await open_local(url, options)
    raise ConfigError(f"{url!r} is no store: expected s3://bucket/prefix or file:///directory")


async def renew_credentials(store: ObjectStore, options: StoreOptions) -> None:
    """Have an open store go on with the credentials of ``options`` once the bucket accepts them.

    Requests under way end with the old ones, which stay in force if the new ones are refused; the
    store's identity keeps its name. A store that knows no credentials has nothing to do. Raises
    AccessDenied and whatever else the store answers to the new ones.
    """
    from csi_slayer.store.s3.open import renew_s3
    from csi_slayer.store.s3.store import S3Store

    if isinstance(store, S3Store):
        await renew_s3(store, options)
