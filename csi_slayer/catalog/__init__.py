"""The inode table of a volume: kept in SQLite on the node.

The VFS and the content layer know this class only. Its methods are coroutines, so that a home
across a network can have the same interface; SQLite's answer without suspending.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

from csi_slayer.catalog.database import Database
from csi_slayer.catalog.inode import INSERT, VACATED, Defaults, Inode, Listed, Mark, Name, Pending
from csi_slayer.catalog.schema import ROOT
from csi_slayer.catalog.uses import Gone
from csi_slayer.catalog.vanishing import Vanishing
from csi_slayer.errors import SlayerError

__all__ = [
    "ROOT", "VACATED", "Catalog", "Defaults", "Gone", "Inode", "Listed", "Mark", "Name", "Pending",
]  # fmt: skip


class Catalog(Vanishing):
    """Opens or creates the table at ``path``; ``defaults`` gives owner and mode of the root and
    of what says nothing of its own; ``room`` as for :class:`csi_slayer.catalog.listings.Listings`.

    Raises :class:`csi_slayer.errors.CatalogError`.
    """

    def __init__(
        self, path: Path, defaults: Defaults, room: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(Database(path))
        self.room = room
        self.defaults = defaults
        try:
            self._make_ready()
        except BaseException:
            with contextlib.suppress(SlayerError):  # the first one says what is wrong
                self.close()
            raise

    def _make_ready(self) -> None:
        self._start()
        defaults = self.defaults
        if self._db.one("SELECT 1 FROM inodes WHERE ino = ?", (ROOT,)) is None:
            now = time.time_ns()
            mode = stat.S_IFDIR | defaults.dir_mode
            root = Inode(ROOT, ROOT, mode, 2, defaults.uid, defaults.gid, 0, 0, now, now, now,
                         None, None, None, None, None, 0, 0, 0, ROOT, None)  # fmt: skip
            with self._db.transaction():
                self._db.execute(INSERT, root)
        with contextlib.suppress(SlayerError):  # a full disk: a later start does it
            self._take_defaults()

    def _take_defaults(self) -> None:
        """If the last start had others: what had those has those of now, unless it was set here and
        the store does not know it yet. Objects that say the same of themselves are read again."""
        row, now = self._db.one("SELECT value FROM meta WHERE name = 'defaults'"), self.defaults
        text = json.dumps(now)
        if row is not None and row[0] == text:
            return
        with self._db.transaction():
            if row is not None:
                old = Defaults(*json.loads(row[0]))
                for before, after in (
                    (stat.S_IFREG | old.file_mode, stat.S_IFREG | now.file_mode),
                    (stat.S_IFDIR | old.dir_mode, stat.S_IFDIR | now.dir_mode),
                ):
                    self._db.execute(
                        "UPDATE inodes SET mode = ?, uid = ?, gid = ?, flags = flags & ~? WHERE "
                        "mode = ? AND uid = ? AND gid = ? AND flags & ? = 0 AND stage IS NULL",
                        (after, now.uid, now.gid, Mark.ATTRS_KNOWN,
                         before, old.uid, old.gid, Mark.ATTRS_DIRTY),
                    )  # fmt: skip
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('defaults', ?)", (text,))

    @property
    def is_new(self) -> bool:
        """Whether no file or directory was ever in it."""
        return self._db.one("SELECT 1 FROM meta WHERE name = 'next_ino'") is None

    @property
    def boot(self) -> int | None:
        """The boot of the machine that :meth:`booted` was told of last."""
        row = self._db.one("SELECT value FROM meta WHERE name = 'boot'")
        return None if row is None else int(row[0])

    async def booted(self, generation: int) -> None:
        """What an earlier boot left has been looked through."""
        value = str(generation)  # larger than an integer of SQLite
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('boot', ?)", (value,))

    def checkpoint(self) -> None:
        """Keep the journal short; blocks, for a thread, every few seconds."""
        self._db.checkpoint()

    def reset_journal(self) -> None:
        """Right after :meth:`checkpoint`, on the event loop: cut a journal that is large."""
        self._db.reset_wal()

    async def synced(self) -> None:
        """Return when every change made so far survives a power loss."""
        await asyncio.to_thread(self._db.sync_wal)

    def close(self) -> None:
        self._db.close()
