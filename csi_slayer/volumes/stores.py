"""Open stores, shared by all calls of a process: opening one may cost a TLS context, a look-up of
credentials and a role."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from csi_slayer.config import MountConfig
from csi_slayer.store.base import ObjectStore
from csi_slayer.store.observe import NoObserver, RequestObserver
from csi_slayer.store.open import open_store
from csi_slayer.worker.spec import store_options

MOST_STORES = 64
"""Stores that stay open; the one unused for longest is closed first."""


@dataclass
class _Entry:
    """``users``: calls that have it at present. ``dropped``: the last of them closes it."""

    opening: asyncio.Task[ObjectStore]
    users: int = 0
    dropped: bool = False
    closing: bool = False


class StorePool:
    """Stores by bucket, prefix, service and identity (secrets included, as a digest).

    ``retry_deadline``: seconds, at most, that one operation is repeated; a call of a sidecar does
    not wait for longer. ``wrap``: what the tests put around each store.
    """

    def __init__(
        self,
        *,
        most: int = MOST_STORES,
        retry_deadline: float = 20.0,
        observer: RequestObserver | None = None,
        wrap: Callable[[ObjectStore], ObjectStore] = lambda store: store,
    ) -> None:
        self._most = most
        self._deadline = retry_deadline
        self._observer = observer or NoObserver()
        self._wrap = wrap
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def use(self, config: MountConfig) -> AsyncIterator[ObjectStore]:
        """The store of ``config.store``, open as long as it is used. Raises SlayerError."""
        key = _key(config)
        entry = self._entries.get(key)
        if entry is None:
            task = asyncio.get_running_loop().create_task(self._open(config))
            entry = self._entries[key] = _Entry(task)
        self._entries.move_to_end(key)
        entry.users += 1
        try:
            self._shrink()
            try:
                store = await asyncio.shield(entry.opening)
            except BaseException:
                if entry.opening.done() and not entry.dropped:
                    self._forget(key, entry)  # the next call tries again
                raise
            yield store
        finally:
            entry.users -= 1
            if entry.dropped and not entry.users:
                self._close_later(entry)

    async def drop(self, config: MountConfig) -> None:
        """Close the store of ``config.store``, which is about to be removed, once it is unused."""
        key = _key(config)
        entry = self._entries.get(key)
        if entry is not None:
            self._forget(key, entry)
            if not entry.users:
                self._close_later(entry)
                await asyncio.wait(self._closing)

    async def close(self) -> None:
        """Close all; operations under way fail."""
        for key, entry in list(self._entries.items()):
            self._forget(key, entry)
            self._close_later(entry)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _open(self, config: MountConfig) -> ObjectStore:
        options = store_options(config, self._observer)
        deadline = min(options.retry_deadline, self._deadline)
        options = replace(options, retry_deadline=deadline)
        return self._wrap(await open_store(config.store.url, options))

    def _forget(self, key: str, entry: _Entry) -> None:
        entry.dropped = True
        if self._entries.get(key) is entry:
            del self._entries[key]

    def _shrink(self) -> None:
        unused = [(key, entry) for key, entry in self._entries.items() if not entry.users]
        for key, entry in unused[: max(len(self._entries) - self._most, 0)]:
            self._forget(key, entry)
            self._close_later(entry)

    def _close_later(self, entry: _Entry) -> None:
        if entry.closing:
            return
        entry.closing = True

        async def close() -> None:
            try:
                store = await entry.opening
            except Exception:  # whoever asked for it has been told
                return
            await store.close()

        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _key(config: MountConfig) -> str:
    digest = hashlib.sha256(config.to_spec())
    if config.store.scheme == "file":
        # A directory that was removed and made again, perhaps by another process, is another one.
        try:
            status = os.stat(config.store.directory)
            digest.update(f"{status.st_dev}:{status.st_ino}".encode())
        except OSError:
            pass  # opening it says what is wrong
    return digest.hexdigest()
