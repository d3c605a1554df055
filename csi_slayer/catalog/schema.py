"""The one SQL schema of all volumes, and how a database gets it.

Times are nanoseconds since 1970, sizes bytes. An inode's content is found by four columns:

* ``etag``: the version of the object that holds it; NULL while the store has none.
* ``origin``: the key of that object where it is not the inode's own path (a rename whose
  server-side copy has not happened yet, or an unlinked file that is still open); else NULL.
* ``stage``: id of the staged local copy of a file that is, or was lately, open for writing.
* ``stamp``: the staged file's mtime when its bytes were the object's; NULL: they never were.
  Of an empty object without a staged file its time in the store, by which it is seen to have been
  written anew: its version is that of all empty objects; NULL: not known yet; negative: not known
  yet either, but it was written here, and not after that time.

Names are listed in the order of ``place``, the number of the first inode that had the name: it is
the same when another version of an object is another inode, or another file is moved to the name,
for a reader of the directory who is beyond it. ``lost``, of an inode without a name whose object
somebody else has replaced or removed, is the key that it had: what is cached of that version is
found by it.

``pending`` has a row for each key whose object may differ from what the table says it should be;
``expect`` is the etag we believe is there ('' for no object, NULL for unknown), ``token`` begins
the write token of every object that is put there for the row, by which a worker knows what one
that died had written. ``doubt`` is 1 if an upload to the key may have happened without an answer,
2 if a copy may have, which bears no token of ours, 3 if what was there has moved to another key,
or was seen to be, or may be, somebody else's by now: another version there stays. Work is derived
by comparing, not replayed from a log, so repeated changes of a key collapse and every step can be
repeated after a crash.

``completed`` has the answers of requests that must not be done twice (FUSE_NOTIFY_RESEND: a resent
request carries the same unique id).
"""

from __future__ import annotations

VERSION = 3

MIGRATIONS = {
    2: (
        "ALTER TABLE inodes ADD COLUMN place INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE inodes ADD COLUMN lost TEXT",
        "UPDATE inodes SET place = ino",
        "ALTER TABLE dentries ADD COLUMN place INTEGER NOT NULL DEFAULT 0",
        "UPDATE dentries SET place = ino",
        "DROP INDEX dentries_order",
        "CREATE UNIQUE INDEX dentries_order ON dentries(parent, place, name, ino)",
    ),
}
"""Statements that make the next version of one: the catalogs of mounted volumes outlive a
program."""

ROOT = 1
"""Inode number of a volume's root directory (FUSE_ROOT_ID)."""

STATEMENTS = (
    """CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID""",
    """CREATE TABLE inodes(
        ino INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        nlink INTEGER NOT NULL,
        uid INTEGER NOT NULL,
        gid INTEGER NOT NULL,
        rdev INTEGER NOT NULL DEFAULT 0,
        size INTEGER NOT NULL DEFAULT 0,
        atime_ns INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        etag TEXT,
        origin TEXT,
        stage TEXT,
        stamp INTEGER,
        target TEXT,
        flags INTEGER NOT NULL DEFAULT 0,
        checked_ns INTEGER NOT NULL DEFAULT 0,
        listed_ns INTEGER NOT NULL DEFAULT 0,
        place INTEGER NOT NULL,
        lost TEXT)""",
    """CREATE INDEX inodes_origin ON inodes(origin) WHERE origin IS NOT NULL""",
    """CREATE INDEX inodes_orphan ON inodes(ino) WHERE nlink = 0""",
    """CREATE TABLE dentries(
        parent INTEGER NOT NULL,
        name TEXT NOT NULL,
        ino INTEGER NOT NULL,
        place INTEGER NOT NULL,
        PRIMARY KEY(parent, name)) WITHOUT ROWID""",
    """CREATE UNIQUE INDEX dentries_order ON dentries(parent, place, name, ino)""",
    """CREATE TABLE xattrs(
        ino INTEGER NOT NULL,
        name BLOB NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY(ino, name)) WITHOUT ROWID""",
    """CREATE TABLE pending(
        key TEXT PRIMARY KEY,
        expect TEXT,
        since_ns INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        token TEXT NOT NULL,
        doubt INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    """CREATE TABLE uploads(upload_id TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE completed(request INTEGER PRIMARY KEY, ino INTEGER NOT NULL)""",
)

PAGE_SIZE = 2048
FRAME_SIZE = PAGE_SIZE + 24
"""Bytes of a page of the database, and in the WAL (https://sqlite.org/fileformat.html)."""

BUSY_TIMEOUT = 5000
"""Milliseconds that one connection waits for another."""

PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=NORMAL",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA cache_size=-8192",
    "PRAGMA wal_autocheckpoint=0",
    f"PRAGMA busy_timeout={BUSY_TIMEOUT}",
    "PRAGMA foreign_keys=OFF",
)
"""8 MiB of page cache. A transaction writes each page that it touches to the WAL, and touches
little of each: pages smaller than the usual 4096 bytes. Folding the WAL back needs fsync, so a
thread does it, not the event loop (:meth:`csi_slayer.catalog.database.Database.checkpoint`)."""

WAL_SMALL, WAL_LARGE = 4 << 20, 64 << 20
"""Bytes of WAL from which on it is folded back, and from which on its file is begun anew or, when
less is written again, cut."""
