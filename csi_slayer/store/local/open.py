"""From a URL to an open local store."""

from __future__ import annotations

import asyncio
import os
import time

from csi_slayer.errors import BucketNotFound, ConfigError, ObjectNotFound
from csi_slayer.store.local import uploads
from csi_slayer.store.local.oserrors import translated
from csi_slayer.store.local.store import LocalStore
from csi_slayer.store.local.tree import Tree
from csi_slayer.store.local.work import WorkThreads
from csi_slayer.store.options import StoreOptions


async def open_local(url: str, options: StoreOptions) -> LocalStore:
    """The store in ``file:///directory``.

    Nothing is decoded: what follows ``file://`` is the path. Raises ConfigError for a path that is
    not absolute, BucketNotFound for a directory that is missing (unless ``allow_missing``).
    """
    path = url.removeprefix("file://")
    if not path.startswith("/"):
        raise ConfigError(f"{url!r} is no store: expected file:///directory")
    tree = await asyncio.to_thread(_open, os.path.realpath(path), options.allow_missing)
    threads = WorkThreads(options.transfer_threads, options.observer)
    return LocalStore(tree, f"file://{tree.path}", threads)


def _open(path: str, allow_missing: bool) -> Tree:
    try:
        with translated(path):
            if allow_missing:
                os.makedirs(path, exist_ok=True)
            tree = Tree(path)
            with tree.locked():
                pass  # what a process that died under the lock has left is done by now
            uploads.clean(tree, time.time())
            return tree
    except ObjectNotFound:
        raise BucketNotFound(f"{path!r} is no directory: create it or check the URL") from None
