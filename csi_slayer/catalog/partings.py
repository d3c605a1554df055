"""Taking a name from an inode because others have changed or removed its object.

The kernel has one size and one page cache for an inode. So the version that somebody has open
stays that inode, which has no name any more, and the name gets another inode or none.
"""

from __future__ import annotations

from typing import Any

from csi_slayer.catalog.changes import Changes
from csi_slayer.catalog.inode import Inode, Mark
from csi_slayer.catalog.uses import Gone, Unused, Uses


class Partings(Changes):
    """None of these touches the store."""

    uses: Uses = Unused()

    def _vanish(self, inode: Inode) -> list[Gone]:
        """Within a transaction: remove an inode and, if a directory, all below it. Returns the
        inode, then those."""
        found = [inode]
        for one in found:  # it grows meanwhile: each directory before what is in it
            if one.is_dir:
                below = self._db.all("SELECT ino FROM dentries WHERE parent = ?", (one.ino,))
                found += filter(None, (self._rows.find(ino) for (ino,) in below))
        gone: list[Gone] = []
        for one in reversed(found):
            name = self.name_of(one.ino, one.parent)
            if name is not None:
                self.used_bytes -= one.size
                gone.append(self._lose(one, name))
        if inode.is_dir:
            self._paths_changed()
        return gone[::-1]

    def _lose(self, inode: Inode, name: str) -> Gone:
        """The inode loses its name, and its row unless somebody has it open; or may be using it,
        for who works in a directory or lists it is not known."""
        lost = inode.origin or self.path_now(inode.ino)
        self._rows.unname(inode.parent, name)
        kept = self.uses.is_open(inode.ino) or (inode.is_dir and self.uses.is_seen(inode.ino))
        if kept:
            self._rows.set(inode.ino, {"nlink": 0, "origin": None, "lost": lost})
        else:
            self._drop(inode.ino)
        return Gone(inode.parent, name, inode, kept)

    def _part(self, old: Inode, name: str, values: dict[str, Any]) -> tuple[Gone, Inode]:
        """Within a transaction: the name gets another inode, which is returned, too: like the old
        one but for these columns and its staged copy."""
        new = old._replace(**{"ino": self._new_ino(), "stage": None, **values})
        if new.flags & Mark.XATTRS:
            self._db.execute(
                "INSERT INTO xattrs SELECT ?, name, value FROM xattrs WHERE ino = ?",
                (new.ino, old.ino),
            )
        gone = self._lose(old, name)
        self._rows.add(new, name)
        self.used_bytes += new.size - old.size
        return gone, new

    def _becomes(self, old: Inode, name: str | None, values: dict[str, Any]) -> list[Gone]:
        """Within a transaction: a file has these columns from now on, which are another version's;
        or, if its own have to stay, another inode has the name and them."""
        if name is not None and (
            old.stage is not None or (old.is_file and self.uses.is_read(old.ino))
        ):
            return [self._part(old, name, values)[0]]
        if not values["flags"] & Mark.XATTRS:
            self._db.execute("DELETE FROM xattrs WHERE ino = ?", (old.ino,))  # that version's
        self._update(old.ino, values)
        return []

    async def split(self, inode: Inode, name: str) -> tuple[Gone, Inode]:
        """Give the name of a file that is open to a new inode, which is returned and is like it in
        all; the old one stays without a staged copy, and of its object only what is cached is sure
        to be there."""
        with self._db.transaction():
            parted = self._part(inode, name, {"stage": inode.stage})
            self._rows.set(inode.ino, {"stage": None})
        return parted

    async def superseded(
        self, inode: Inode, key: str, etag: str | None, *, clear: int = 0, **values: Any
    ) -> list[Gone]:
        """The object ``key`` that an inode's content was is the version ``etag`` by now, None if it
        is gone; its staged copy, if it had one, is no more. Returns what lost its name by that;
        ``clear`` and ``values`` as for :meth:`update`."""
        with self._db.transaction():
            if inode.stage is not None:
                self._update(inode.ino, {"stage": None, "stamp": None})
                flags = inode.flags & ~Mark.OF_STAGE
                inode = inode._replace(stage=None, stamp=None, flags=flags)
            if etag is None:
                # What was to be moved away, or replaced by it, is to be deleted now.
                for noted in filter(None, (inode.origin, self.path_now(inode.ino))):
                    self._only_known(noted)
                gone = self._vanish(inode)
                self._keep_directory(inode.parent)
            else:
                name = self.name_of(inode.ino, inode.parent)
                values |= {"etag": etag, "flags": inode.flags & ~clear}
                gone = self._becomes(inode, name, values)
            self._found_out(key, etag or "")
        return gone
