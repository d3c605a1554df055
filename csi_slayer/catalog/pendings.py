"""Keys whose objects may have to change, and multipart uploads under way."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence

from csi_slayer.catalog.database import Database
from csi_slayer.catalog.inode import VACATED, Pending
from csi_slayer.catalog.reads import Reads

DELETED_KEPT = 65536
"""Keys lately deleted that are remembered, so that a listing under way does not bring them back."""

ROWS_KEPT = 4096
"""Pending rows remembered, and keys known to be settled; when there are more, all are forgotten."""

_SELECT = "SELECT key, expect, since_ns, attempts, error, token, doubt FROM pending "
_PEND = "INSERT OR IGNORE INTO pending(key, expect, since_ns, token) VALUES (?,?,?,?)"


class Pendings(Reads):
    """The pending table; ``_pend`` is called inside the transaction of the change itself."""

    _last_ns = 0

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._deleted: OrderedDict[str, int] = OrderedDict()
        self._deleted_below: OrderedDict[str, int] = OrderedDict()
        self._pending: dict[str, Pending | None] = {}

    @property
    def changed_ns(self) -> int:
        """When a key was last noted by this process; 0: never."""
        return self._last_ns

    def _forget(self) -> None:
        super()._forget()
        self._pending.clear()

    def _remember(self, key: str, row: Pending | None) -> None:
        if len(self._pending) >= ROWS_KEPT:
            self._pending.clear()
        self._pending[key] = row

    def _find_pending(self, key: str) -> Pending | None:
        try:
            return self._pending[key]
        except KeyError:
            row = self._db.one(_SELECT + "WHERE key = ?", (key,))
            found = None if row is None else Pending._make(row)
            self._remember(key, found)
            return found

    def _noted_now(self) -> int:
        """The time of a note: later than that of any before it."""
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        return self._last_ns

    def _pend(self, key: str, expect: str | None) -> None:
        """Note that ``key`` may have to change; the first note's ``expect`` stays, ``since_ns``
        is new with each note, so that work begun before it does not settle the key."""
        since_ns = self._noted_now()
        if self._pending.get(key) is None:
            row = Pending(key, expect, since_ns, 0, None, secrets.token_hex(8), 0)
            if self._db.execute(_PEND, (key, expect, since_ns, row.token)).rowcount:
                self._remember(key, row)
                return
        self._db.execute("UPDATE pending SET since_ns = ? WHERE key = ?", (since_ns, key))
        self._pending.pop(key, None)

    def _settle(self, row: Pending, found: str | None) -> None:
        """The work that ``row`` asked for is done and the object there is now ``found``; if the
        key was noted again meanwhile it stays pending with that knowledge."""
        done = self._db.execute(
            "DELETE FROM pending WHERE key = ? AND since_ns = ?", (row.key, row.since_ns)
        )
        if done.rowcount == 0:
            self._found_out(row.key, found)
        else:
            self._remember(row.key, None)

    def _unpend(self, key: str) -> None:
        """There is nothing to do for the key after all."""
        self._db.execute("DELETE FROM pending WHERE key = ?", (key,))
        self._remember(key, None)

    def _found_out(self, key: str, found: str | None) -> None:
        """We know for certain what is at a key that stays pending."""
        self._db.execute("UPDATE pending SET expect = ?, doubt = 0 WHERE key = ?", (found, key))
        self._pending.pop(key, None)

    def _vacated(self, key: str, etag: str | None) -> None:
        """The content that has moved away from a pending key was this version."""
        values = etag, VACATED, key
        self._db.execute("UPDATE pending SET expect = ?, doubt = ? WHERE key = ?", values)
        self._pending.pop(key, None)

    def _only_known(self, key: str) -> None:
        """What is at a pending key may be somebody else's by now: if in the end nothing is to be
        there, only the version that we know is deleted."""
        self._db.execute("UPDATE pending SET doubt = ? WHERE key = ?", (VACATED, key))
        self._pending.pop(key, None)

    def _is_pending(self, key: str) -> bool:
        return self._find_pending(key) is not None

    async def pending(self, key: str) -> Pending | None:
        return self._find_pending(key)

    async def pendings(self, after: str, limit: int) -> list[Pending]:
        """Pending keys in order, greater than ``after``."""
        rows = self._db.all(_SELECT + "WHERE key > ? ORDER BY key LIMIT ?", (after, limit))
        return [Pending._make(row) for row in rows]

    async def pending_below(self, prefix: str, limit: int) -> list[str]:
        """Pending keys that begin with ``prefix``."""
        rows = self._db.all(
            "SELECT key FROM pending WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return [str(row[0]) for row in rows]

    async def last_pending_in(self, prefix: str) -> str:
        """The greatest pending key that begins with ``prefix``, or that itself."""
        last = self._db.one(
            "SELECT max(key) FROM pending WHERE key > ? AND key < ?",
            (prefix, prefix + "\U0010ffff"),
        )
        return prefix if last is None or last[0] is None else str(last[0])

    async def pending_until(self, last: str, after: str, limit: int) -> list[str]:
        """Pending keys in order, greater than ``after`` and no greater than ``last``."""
        rows = self._db.all(
            "SELECT key FROM pending WHERE key > ? AND key <= ? ORDER BY key LIMIT ?",
            (after, last, limit),
        )
        return [str(row[0]) for row in rows]

    async def pendings_around(self, key: str, limit: int) -> list[Pending]:
        """Pending keys that a store on a file system cannot hold together with ``key``: those of
        files that have the name of a directory on its way, and those below it."""
        parts = key.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        below = [] if key.endswith("/") else await self.pending_below(key + "/", limit)
        found = map(self._find_pending, [*above, *below])
        return [row for row in found if row is not None]

    async def any_pending(self) -> bool:
        return self._db.one("SELECT 1 FROM pending LIMIT 1") is not None

    async def pending_count(self) -> int:
        """How many keys are pending, counted by a thread: there may be millions."""
        ((count,),) = await asyncio.to_thread(self._db.aside, "SELECT count(*) FROM pending")
        return int(count)

    async def pending_oldest(self) -> int | None:
        """When the key that has waited longest was last noted; None if none waits. In a thread as
        :meth:`pending_count`."""
        ((oldest,),) = await asyncio.to_thread(self._db.aside, "SELECT min(since_ns) FROM pending")
        return None if oldest is None else int(oldest)

    async def failing(self, limit: int) -> list[tuple[str, int, str]]:
        """Of keys whose last attempt failed the first: key, attempts and reason of each. In a
        thread as :meth:`pending_count`."""
        rows = await asyncio.to_thread(
            self._db.aside,
            "SELECT key, attempts, error FROM pending WHERE error IS NOT NULL ORDER BY key LIMIT ?",
            (limit,),
        )
        return [(str(key), int(attempts), str(error)) for key, attempts, error in rows]

    async def pending_failed(self, key: str, error: str, *, refused: bool = False) -> None:
        """Note an attempt that failed and why (no secret may be in the text); ``refused``: the
        store has said that it did not do it."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE pending SET attempts = attempts + 1, error = ?, doubt = max(doubt, ?) "
                "WHERE key = ?",
                (error, 0 if refused else 1, key),
            )
            self._pending.pop(key, None)

    async def pendings_failed(self, keys: Sequence[str], error: str) -> None:
        """As :meth:`pending_failed`, of keys whose objects were to be deleted together."""
        with self._db.transaction():
            self._db.executemany(
                "UPDATE pending SET attempts = attempts + 1, error = ? WHERE key = ?",
                [(error, key) for key in keys],
            )
            for key in keys:
                self._pending.pop(key, None)

    async def pending_expect(self, key: str, expect: str | None) -> None:
        """Correct what we believe to be at ``key``."""
        with self._db.transaction():
            self._found_out(key, expect)

    async def inherit_pending(self) -> None:
        """An earlier worker may have died between a write and the note of it."""
        with self._db.transaction():
            self._db.execute("UPDATE pending SET doubt = 1 WHERE doubt = 0")
            self._pending.clear()

    async def copy_begins(self, key: str) -> None:
        """A copy to ``key`` is about to be asked for; it is pending from now on if it was not."""
        with self._db.transaction():
            if not self._is_pending(key):
                self._pend(key, "")
            self._db.execute("UPDATE pending SET doubt = 2 WHERE key = ?", (key,))
            self._pending.pop(key, None)

    async def copy_refused(self, row: Pending) -> None:
        """There was no copy after all: what is found at the key is no more ours than before."""
        with self._db.transaction():
            self._db.execute("UPDATE pending SET doubt = ? WHERE key = ?", (row.doubt, row.key))
            self._pending.pop(row.key, None)

    async def settled(self, ino: int, row: Pending, found: str | None) -> None:
        """The object at ``row.key`` is what the inode there asks for, as version ``found``."""
        with self._db.transaction():
            self._settle(row, found)
            self._rows.set(ino, {"checked_ns": time.time_ns()})

    async def removed(self, rows: list[Pending]) -> None:
        """The objects of these keys are deleted."""
        with self._db.transaction():
            for row in rows:
                self._settle(row, "")
        now = time.time_ns()
        for row in rows:
            self._note_time(self._deleted, row.key, now)
            directory = row.key.rstrip("/").rpartition("/")[0]
            while directory:
                self._note_time(self._deleted_below, directory + "/", now)
                directory = directory.rpartition("/")[0]

    @staticmethod
    def _note_time(times: OrderedDict[str, int], key: str, now: int) -> None:
        times[key] = now
        times.move_to_end(key)
        if len(times) > DELETED_KEPT:
            times.popitem(last=False)

    def _going_since(self, directory: str, since_ns: int) -> bool:
        """Whether objects below a directory (with its slash) wait for their deletion, or were
        deleted after that time: the store may show a directory only for them."""
        if self._is_since(self._deleted_below.get(directory, 0), since_ns):
            return True
        below = self._db.one(
            "SELECT 1 FROM pending WHERE key >= ? AND key < ? LIMIT 1",
            (directory, directory + "\U0010ffff"),
        )
        return below is not None

    def _is_hidden(self, directory: str, since_ns: int) -> bool:
        """Whether an object that was removed or moved here has a directory's name (without its
        slash) still, or had it after that time: MinIO lists nothing of what is below an object's
        key, so that a listing then does not tell what is gone."""
        return self._is_pending(directory) or self._deleted_since(directory, since_ns)

    def _deleted_since(self, key: str, since_ns: int) -> bool:
        """Whether we deleted the object after that time: a listing begun then may still show it."""
        return self._is_since(self._deleted.get(key, 0), since_ns)

    @staticmethod
    def _is_since(then_ns: int, since_ns: int) -> bool:
        """Not what a clock that was ahead has dated: that counts as old."""
        return since_ns <= then_ns <= time.time_ns()

    async def upload_began(self, upload_id: str, key: str) -> None:
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO uploads VALUES (?,?)", (upload_id, key))

    async def upload_ended(self, upload_id: str) -> None:
        with self._db.transaction():
            self._db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    async def uploads(self) -> list[tuple[str, str]]:
        """Multipart uploads begun and not known to have ended: (upload id, key)."""
        return [(str(u), str(k)) for u, k in self._db.all("SELECT upload_id, key FROM uploads")]
