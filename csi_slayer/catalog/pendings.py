"""Keys whose objects may have to change, and multipart uploads under way."""

from __future__ import annotations

import time

from csi_slayer.catalog.inode import Pending
from csi_slayer.catalog.reads import Reads


class Pendings(Reads):
    """The pending table; ``_pend`` is called inside the transaction of the change itself."""

    def _pend(self, key: str, expect: str | None) -> None:
        """Note that ``key`` may have to change; the first note's ``expect`` stays."""
        self._db.execute(
            "INSERT OR IGNORE INTO pending(key, expect, since_ns) VALUES (?,?,?)",
            (key, expect, time.time_ns()),
        )

    async def pend(self, key: str, expect: str | None) -> None:
        with self._db.transaction():
            self._pend(key, expect)

    def _is_pending(self, key: str) -> bool:
        return self._db.one("SELECT 1 FROM pending WHERE key = ?", (key,)) is not None

    async def pending(self, key: str) -> Pending | None:
        row = self._db.one(
            "SELECT key, expect, since_ns, attempts, error FROM pending WHERE key = ?", (key,)
        )
        return None if row is None else Pending._make(row)

    async def pendings(self, after: str, limit: int) -> list[Pending]:
        """Pending keys in order, greater than ``after``."""
        rows = self._db.all(
            "SELECT key, expect, since_ns, attempts, error FROM pending "
            "WHERE key > ? ORDER BY key LIMIT ?",
            (after, limit),
        )
        return [Pending._make(row) for row in rows]

    async def pending_below(self, prefix: str, limit: int = 1000) -> list[str]:
        """Pending keys that begin with ``prefix``."""
        rows = self._db.all(
            "SELECT key FROM pending WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        )
        return [str(row[0]) for row in rows]

    async def pending_count(self) -> int:
        row = self._db.one("SELECT count(*) FROM pending")
        return 0 if row is None else int(row[0])

    async def pending_failed(self, key: str, error: str) -> None:
        """Note an attempt that failed and why (no secret may be in the text)."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE pending SET attempts = attempts + 1, error = ? WHERE key = ?", (error, key)
            )

    async def pending_expect(self, key: str, expect: str | None) -> None:
        """Correct what we believe to be at ``key``."""
        with self._db.transaction():
            self._db.execute("UPDATE pending SET expect = ? WHERE key = ?", (expect, key))

    async def settled(self, keys: list[str]) -> None:
        """The objects of these keys are as they should be."""
        with self._db.transaction():
            self._db.executemany("DELETE FROM pending WHERE key = ?", [(key,) for key in keys])

    async def removed(self, keys: list[str]) -> None:
        """The objects of these keys are deleted; a name that came back meanwhile stays pending."""
        with self._db.transaction():
            for key in keys:
                if await self.resolve(key) is None:
                    self._db.execute("DELETE FROM pending WHERE key = ?", (key,))
                else:
                    self._db.execute("UPDATE pending SET expect = '' WHERE key = ?", (key,))

    async def upload_began(self, upload_id: str, key: str) -> None:
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO uploads VALUES (?,?)", (upload_id, key))

    async def upload_ended(self, upload_id: str) -> None:
        with self._db.transaction():
            self._db.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))

    async def uploads(self) -> list[tuple[str, str]]:
        """Multipart uploads begun and not known to have ended: (upload id, key)."""
        return [(str(u), str(k)) for u, k in self._db.all("SELECT upload_id, key FROM uploads")]
