"""What the store says is there, merged into the table; what is changed here wins."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from csi_slayer.catalog.inode import Defaults, Found, Inode, Listed, Mark
from csi_slayer.catalog.outcomes import Outcomes
from csi_slayer.catalog.uses import Merged

_SECOND = 1_000_000_000

_OF_VERSION = Mark.OVERLAY | Mark.ATTRS_KNOWN | Mark.ATTRS_DIRTY | Mark.XATTRS
"""These another version of the object does not take over."""


SURE = 64 << 20
"""Bytes of a catalog that names may be learned for however little the disk has free."""


class Known(NamedTuple):
    """What the table has of a name that a listing shows."""

    ino: int
    mode: int
    size: int
    etag: str | None
    stage: str | None
    origin: str | None
    checked_ns: int
    stamp: int | None


_KNOWN = ",".join(f"i.{name}" for name in Known._fields)


def _is_empty(item: Listed) -> bool:
    return item.size == 0 and not stat.S_ISDIR(item.mode)


def _same_time(one: int, other: int) -> bool:
    """A HEAD tells whole seconds where a listing may tell more."""
    whole = not (one % _SECOND and other % _SECOND)
    return one == other or (whole and one // _SECOND == other // _SECOND)


def _uncertain(mtime_ns: int) -> int:
    """By how much an object's time may be later than the answer to its write was dated: by the
    second's fraction, and by one more where a server keeps the date of its answers for a second
    (versitygw does; it tells whole seconds)."""
    return _SECOND if mtime_ns % _SECOND else 2 * _SECOND


def _is_other(row: Known | None, key: str) -> bool:
    """Whether a directory's key is listed where the table has none: the store may still have some
    of what was in one that was removed or moved here."""
    return key.endswith("/") and (row is None or not stat.S_ISDIR(row.mode))


class Listings(Outcomes):
    """Listings are merged page by page and swept at the end (:mod:`csi_slayer.catalog.vanishing`):
    a name that a listing begun at ``since_ns`` did not show, and that nobody touched since, is
    gone. What is dated in time to come was noted by a clock that was ahead, and counts as old.

    ``room`` raises CacheFull if names that nobody knew are not to be learned now, once they
    have :data:`SURE`: a bucket may have names without an end. What is known is brought up to date
    all the same, and nothing that is changed here asks."""

    room: Callable[[], None]

    async def merge(
        self, parent: int, found: Sequence[Listed], since_ns: int, defaults: Defaults
    ) -> Merged:
        """Take in a page of names of one directory; returns what changed. Raises CacheFull."""
        merged, now_ns = Merged([], []), time.time_ns()
        path = self.path_now(parent)
        if path is None:
            return merged
        base = path + "/" if path else ""
        with self._db.transaction():
            known = self._known(parent, [item.name for item in found])
            pending = self._pending_of(base, found)
            inserts: list[tuple[Found, str]] = []
            learned = False
            seen: list[tuple[int, int]] = []
            dated: list[tuple[int, int]] = []
            for item in found:
                key = base + item.name + ("/" if stat.S_ISDIR(item.mode) else "")
                row = known.get(item.name)
                if row is not None and since_ns < row.checked_ns <= now_ns:
                    continue  # newer knowledge
                if (
                    item.name in pending
                    or self._deleted_since(key, since_ns)
                    or (_is_other(row, key) and self._going_since(key, since_ns))
                ):
                    # What is changed here wins, but the name was seen.
                    if row is not None:
                        seen.append((since_ns, row.ino))
                elif row is None:
                    learned = True
                    inserts.append((self._fresh(parent, item, since_ns, defaults), item.name))
                elif self._differs(row, item) and (old := self._known_there(row.ino)):
                    if old.is_dir and self._has_changes(base + item.name, old, since_ns):
                        seen.append((since_ns, row.ino))
                    elif old.is_symlink or old.is_dir or stat.S_ISDIR(item.mode):
                        # A symlink, for the kernel would give its target until it is told.
                        merged.gone.extend(self._vanish(old))
                        inode = self._fresh(parent, item, since_ns, defaults)
                        inserts.append((inode._replace(place=old.place), item.name))
                    else:
                        self._replace(merged, old, item, since_ns, defaults)
                else:  # of what is changed here its upload's If-Match decides
                    seen.append((since_ns, row.ino))
                    if row.stage is None and (row.stamp or -1) < 0 and _is_empty(item):
                        dated.append((item.mtime_ns, row.ino))
            if learned and self._db.used() > SURE:
                self.room()
            self._rows.add_many(parent, inserts)
            self.used_bytes += sum(inode.size for inode, _name in inserts)
            self._rows.set_times("checked_ns", seen)
            self._rows.set_times("stamp", dated)
        return merged._replace(added=bool(inserts))

    async def directories_among(self, parent: int, names: Sequence[str]) -> set[str]:
        """Which of these names the table has as directories."""
        if not self._any_between(parent, names):
            return set()
        rows = self._db.all(
            "SELECT d.name FROM json_each(?) j CROSS JOIN dentries d "
            "ON d.parent = ? AND d.name = j.value "
            "JOIN inodes i ON i.ino = d.ino WHERE i.mode & ? = ?",
            (json.dumps(list(names)), parent, 0o170000, stat.S_IFDIR),
        )
        return {row[0] for row in rows}

    def _any_between(self, parent: int, names: Sequence[str]) -> bool:
        """Whether the table has a name from the first to the last of these. Pages come in the
        order of names, so those of a first listing find none."""
        found = names and self._db.one(
            "SELECT 1 FROM dentries WHERE parent = ? AND name BETWEEN ? AND ? LIMIT 1",
            (parent, min(names), max(names)),
        )
        return bool(found)

    def _known(self, parent: int, names: Sequence[str]) -> dict[str, Known]:
        if not self._any_between(parent, names):
            return {}
        rows = self._db.all(
            f"SELECT d.name, {_KNOWN} "
            "FROM json_each(?) j CROSS JOIN dentries d ON d.parent = ? AND d.name = j.value "
            "JOIN inodes i ON i.ino = d.ino",
            (json.dumps(list(names)), parent),
        )
        return {row[0]: Known._make(row[1:]) for row in rows}

    def _pending_of(self, base: str, found: Sequence[Listed]) -> set[str]:
        """Names among ``found`` whose keys are pending, as a file or as a directory."""
        if self._db.one("SELECT 1 FROM pending LIMIT 1") is None:
            return set()
        keys = {base + item.name: item.name for item in found}
        keys |= {key + "/": name for key, name in keys.items()}
        rows = self._db.all(
            "SELECT p.key FROM json_each(?) j CROSS JOIN pending p ON p.key = j.value",
            (json.dumps(list(keys)),),
        )
        return {keys[row[0]] for row in rows}

    def _fresh(self, parent: int, item: Listed, since_ns: int, defaults: Defaults) -> Found:
        _name, kind, size, mtime_ns, etag = item
        directory = stat.S_ISDIR(kind)
        ino = self._new_ino()
        return Found(
            ino,
            parent,
            kind | (defaults.dir_mode if directory else defaults.file_mode),
            2 if directory else 1,
            defaults.uid,
            defaults.gid,
            size,
            mtime_ns,
            etag,
            mtime_ns if size == 0 and not directory else None,
            since_ns,
            ino,
        )

    @staticmethod
    def _differs(row: Known, item: Listed) -> bool:
        """Whether the store's object is another one than the table has (directories never are).

        A symlink or special file is an object like any other: only its version tells, and its
        time, for all empty objects have the same version."""
        if stat.S_ISDIR(item.mode) != stat.S_ISDIR(row.mode):
            return True
        if stat.S_ISDIR(row.mode):
            return False
        if row.etag != item.etag or row.origin is not None:
            return True
        if row.stage is not None:
            return False
        if row.size != item.size:
            return True  # a server had told the one version's size with the other's etag
        if row.stamp is None or not _is_empty(item):
            return False
        if row.stamp < 0:  # written here at that time, of which a second's fraction is not known
            return item.mtime_ns >= _uncertain(item.mtime_ns) - row.stamp
        return not _same_time(row.stamp, item.mtime_ns)

    def _known_there(self, ino: int) -> Inode | None:
        """An inode whose content is the store's, None for one that is changed here."""
        inode = self._rows.find(ino)
        if inode is None or ino in self.uses.changing():
            return None
        if inode.stage is not None and not self.uses.is_settled(inode):
            return None
        return inode

    def _replace(
        self, merged: Merged, old: Inode, item: Listed, since_ns: int, defaults: Defaults
    ) -> None:
        """Another object has this file's name: the inode has that content from now on or, if it
        has to keep its own, another one has the name."""
        values: dict[str, Any] = {
            "size": item.size,
            "etag": item.etag,
            "origin": None,
            "stamp": item.mtime_ns if _is_empty(item) else None,
            "mode": stat.S_IFREG | (stat.S_IMODE(old.mode) if old.is_file else defaults.file_mode),
            "target": None,
            "mtime_ns": item.mtime_ns,
            "ctime_ns": item.mtime_ns,
            "flags": old.flags & ~_OF_VERSION,
            "checked_ns": since_ns,
        }
        gone = self._becomes(old, item.name, values)
        merged.gone.extend(gone)
        if not gone:
            merged.changed.append(old.ino)

    def _has_changes(self, key: str, inode: Inode, since_ns: int) -> bool:
        """Whether an inode, or any below it, is changed here and not in the store, or was not at
        that time."""
        if self._is_pending(key) or self._is_pending(key + "/"):
            return True
        if not inode.is_dir:
            return inode.etag is None or self._known_there(inode.ino) is None
        if self._is_hidden(key, since_ns):
            return True
        prefix = key + "/"
        below = self._db.one(
            "SELECT 1 FROM pending WHERE key >= ? AND key < ? LIMIT 1",
            (prefix, prefix + "\U0010ffff"),
        )
        return below is not None or self._changed_below(inode.ino, since_ns)

    def _changed_below(self, ino: int, since_ns: int) -> bool:
        for changing in self.uses.changing():
            place = self._rows.place(changing)
            while place is not None:
                if place[0] == ino:
                    return True
                place = self._rows.place(place[0])
        row = self._db.one(
            "WITH RECURSIVE below(ino) AS (VALUES(?) UNION ALL "
            "SELECT d.ino FROM dentries d JOIN below b ON d.parent = b.ino) "
            "SELECT 1 FROM inodes i JOIN below b ON i.ino = b.ino "
            "WHERE i.stage IS NOT NULL OR i.checked_ns BETWEEN ? AND ? LIMIT 1",
            (ino, since_ns, max(since_ns, time.time_ns())),
        )
        return row is not None
