"""Buckets, and the directories that stand for them (and for prefixes in them) in a local store."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from csi_slayer.errors import ConfigError
from csi_slayer.store.local.oserrors import translated
from csi_slayer.store.options import StoreOptions


async def create_bucket(url: str, options: StoreOptions) -> bool:
    """Make the bucket of ``s3://bucket``, or the directory; False if it was there.

    Raises AccessDenied (also for a bucket of somebody else), StoreError.
    """
    directory = _directory(url)
    if directory is not None:
        return await asyncio.to_thread(_make, directory)
    from csi_slayer.store.s3.open import open_s3

    store = await open_s3(url, options)
    try:
        return await store.create_bucket(store.region)
    finally:
        await store.close()


async def bucket_exists(url: str, options: StoreOptions) -> bool:
    """Whether the bucket is there. Raises AccessDenied if it is closed to this identity."""
    directory = _directory(url)
    if directory is not None:
        return await asyncio.to_thread(directory.is_dir)
    from csi_slayer.store.s3.open import open_s3

    store = await open_s3(url, options)
    try:
        return await store.bucket_exists()
    finally:
        await store.close()


async def delete_bucket(url: str, options: StoreOptions) -> None:
    """Delete the bucket, which must be empty, or the directory with what a local store keeps in
    it; it need not exist. Raises StoreError if it is not empty."""
    directory = _directory(url)
    if directory is not None:
        await asyncio.to_thread(_remove, directory)
        return
    from csi_slayer.store.s3.open import open_s3

    store = await open_s3(url, options)
    try:
        await store.delete_bucket()
    finally:
        await store.close()


def _directory(url: str) -> Path | None:
    scheme, _, path = url.partition("://")
    if scheme == "s3":
        return None
    if scheme != "file" or not path.startswith("/"):
        raise ConfigError(f"{url!r} is no store: expected s3://bucket or file:///directory")
    return Path(path)


def _make(directory: Path) -> bool:
    with translated(str(directory)):
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            return False
        return True


def _remove(directory: Path) -> None:
    """``directory`` and everything in it. Symlinks in it are removed, not followed."""
    with translated(str(directory)):
        try:
            # rmtree refuses a symlink, and walks by descriptors.
            shutil.rmtree(directory)
            parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
