"""Stores that are closed at the end of their test, also if it fails.

A loop with open connections cannot be closed: the failure would be a test that hangs.
"""

from __future__ import annotations

from typing import Any

from csi_slayer.store import open as opening
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.options import CredentialOptions, StoreOptions
from csi_slayer.store.s3.open import open_s3 as open_real_s3
from csi_slayer.store.s3.store import S3Store
from tests.support.servers import S3Server

_opened: list[ObjectStore] = []


async def open_store(url: str, options: StoreOptions) -> ObjectStore:
    """As the real one; the store is closed at the end, also of a test that fails."""
    _opened.append(await opening.open_store(url, options))
    return _opened[-1]


async def open_s3(url: str, options: StoreOptions) -> S3Store:
    """As the real one; the store is closed at the end, also of a test that fails."""
    store = await open_real_s3(url, options)
    _opened.append(store)
    return store


def options_for(server: S3Server, **changes: Any) -> StoreOptions:
    """Options that reach ``server``."""
    given: dict[str, Any] = {
        "endpoint": server.endpoint,
        "region": server.region,
        "credentials": CredentialOptions(server.access_key, server.secret_key),
    }
    return StoreOptions(**(given | changes))


async def close_all() -> None:
    """Close what the test has opened; it may have closed some of them itself."""
    while _opened:
        await _opened.pop().close()
