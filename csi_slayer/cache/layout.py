"""Where things are below the cache directory.

::

    layout                         version marker; its attributes probe the file system
    segments/<hex>/<32 hex>      data of a segment, with a header in an extended attribute
    segments/<hex>/<32 hex>-<16 hex>.map   block map of one that was not fetched whole
    segments/<hex>/.<32 hex>-<12 hex>      data being written, renamed when complete
    staging/<volume>/<stage id>    files that are, or lately were, open for writing
    conflicts/<volume>/...         staged files that lost a race, for an administrator
    volumes/<volume>/              catalogs, of the layers above
    usage  marks                   shared memory of all processes: bytes used, recent use
    governor.lock  governor.wake   held by the process that evicts; rings its bell
    detach.lock                    held by the process that turns a segment into a stage
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from csi_slayer.cache.oserrors import translated
from csi_slayer.errors import CacheError

BLOCK: Final = 128 << 10
"""Bytes of a block: the unit of presence and of checksums."""

SMALL: Final = 1 << 20
"""Files up to this many bytes are fetched and stored whole."""

DIRECTORIES: Final = 16
"""Directories that the segments are spread over. File systems like ext4 put each directory into
another block group; few of them keep the bitmaps that a new file needs in memory."""

_VERSION = "slayerfs cache layout 1\n"
_TEMPORARY = "layout."
_STAGING, _CONFLICTS = "staging", "conflicts"
_OURS = frozenset({"segments", _STAGING})
_PROBE = 10**18 + 1
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x20000  # linux/fs.h


class Layout:
    """The paths of one cache directory, which is made ready when this is created.

    Raises CacheError if the directory belongs to something else or to another version, or if its
    file system has no extended attributes or no times of nanoseconds.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.segments = root / "segments"
        self.staged = root / _STAGING
        self.kept = root / _CONFLICTS
        self.ledger = root / "usage"
        self.marks = root / "marks"
        self.governor_lock = root / "governor.lock"
        self.governor_wake = root / "governor.wake"
        self.detach_lock = root / "detach.lock"
        self._segments = str(self.segments)
        try:
            self._prepare()
            self._probe_times()
        except OSError as error:
            raise translated(error, f"cache directory {root}") from error
        self.xattr = self._probe_xattr()

    def _prepare(self) -> None:
        if not self.root.exists():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = self.root / "layout"
        if not marker.exists():
            self._claim(marker)
        found = marker.read_text(encoding="ascii", errors="replace")
        if not found.strip("\0"):
            # Earlier versions did not sync it: a power loss may have left the name alone.
            self._claim(marker)
            found = marker.read_text(encoding="ascii", errors="replace")
        if found != _VERSION:
            raise CacheError(
                f"cache directory {self.root} has layout {found.strip()!r}, this version needs "
                f"{_VERSION.strip()!r}: name another directory (in this one, staging and conflicts "
                "may have what no store has)"
            )
        for directory in (self.segments, self.staged, self.kept):
            directory.mkdir(mode=0o700, exist_ok=True)
            _spread(directory)
        (self.root / "volumes").mkdir(mode=0o700, exist_ok=True)
        for number in range(DIRECTORIES):
            with suppress(FileExistsError):
                os.mkdir(f"{self._segments}/{number:x}", 0o700)

    def _claim(self, marker: Path) -> None:
        """Mark a directory as ours that is empty, or that has our directories and a marker without
        content, durably; several processes may do so at the same time."""
        names = os.listdir(self.root)
        ours = _OURS.issubset(names) and marker.exists()
        for name in () if ours else names:
            if not name.startswith(_TEMPORARY) and name not in ("layout", "lost+found", "volumes"):
                if marker.exists():
                    return
                raise CacheError(
                    f"{self.root} is not empty and not a cache of this program (found {name!r}): "
                    "name an empty directory"
                )
        temporary = self.root / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with temporary.open("w", encoding="ascii") as file:
            file.write(_VERSION)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(marker)
        sync_directory(self.root)

    def _probe_xattr(self) -> str:
        """The name of the attribute that holds a segment's header."""
        marker = self.root / "layout"
        reasons = []
        for name in ("user.slayerfs", "trusted.slayerfs"):
            try:
                os.setxattr(marker, name, b"probe")
                return name
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EPERM):
                    raise CacheError(f"{marker}: {error.strerror}") from error
                reasons.append(f"{name}: {error.strerror}")
        raise CacheError(
            f"the file system of {self.root} keeps no extended attributes ({'; '.join(reasons)}): "
            "put the cache on ext4, xfs, btrfs or a recent tmpfs"
        )

    def _probe_times(self) -> None:
        """That a staged file was written to is known by its mtime, to the nanosecond."""
        marker = self.root / "layout"
        os.utime(marker, ns=(_PROBE, _PROBE))
        if marker.stat().st_mtime_ns != _PROBE:
            raise CacheError(
                f"the file system of {self.root} keeps no times of nanoseconds (ext4 with inodes "
                "of 128 bytes does not): put the cache on ext4 with larger ones, xfs or btrfs"
            )

    def data(self, name: str) -> str:
        """The data file of the segment ``name`` (32 hex digits)."""
        return f"{self._segments}/{name[:1]}/{name}"

    def map(self, name: str, nonce: int) -> str:
        """The block map that belongs to the data file with this nonce."""
        return f"{self._segments}/{name[:1]}/{name}-{nonce:016x}.map"

    def temporary(self, name: str) -> str:
        """A free path for a data file that is being written."""
        return f"{self._segments}/{name[:1]}/.{name}-{secrets.token_hex(6)}"

    def shards(self) -> list[str]:
        """The directories that hold segments."""
        return [f"{self._segments}/{number:x}" for number in range(DIRECTORIES)]

    def staging(self, volume: str) -> Path:
        """The staging directory of a volume."""
        return staging_of(self.root, volume)

    def conflicts(self, volume: str) -> Path:
        """The directory of a volume's conflicts."""
        return conflicts_of(self.root, volume)


def staging_of(cache: Path, volume: str) -> Path:
    """The staging directory of a volume of this cache, which is not looked at."""
    return cache / _STAGING / directory_name(volume)


def conflicts_of(cache: Path, volume: str) -> Path:
    """As :func:`staging_of`, the directory of its conflicts."""
    return cache / _CONFLICTS / directory_name(volume)


def directory_name(volume: str) -> str:
    """A volume id as the name of one directory, readable where it can be."""
    name = quote(volume, safe="+=@,~", errors="surrogatepass")
    if not volume or len(name) > 200:
        raise CacheError(f"volume id of {len(volume)} characters cannot name a directory")
    return f"%2E{name[1:]}" if name[0] == "." else name


def _spread(directory: Path) -> None:
    """Have ext4 put each directory that is made in this one into another block group.

    Else all of them are in one, with whatever was deleted around there: without a journal ext4
    passes over inodes that were deleted in the last five minutes, and looks at each of them
    whenever it makes a file. Other file systems have no such attribute, or heed it not.
    """
    flags = bytearray(8)
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
            known = int.from_bytes(flags, sys.byteorder)
            fcntl.ioctl(fd, _FS_IOC_SETFLAGS, (known | _FS_TOPDIR_FL).to_bytes(8, sys.byteorder))
        finally:
            os.close(fd)


def sync_directory(path: Path | str) -> None:
    """Make the names in a directory durable. Blocks. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
