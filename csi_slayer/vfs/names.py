"""Which keys can be names, and names as the kernel gives them.

A key is shown if each of its components is a name a POSIX file system could have: not empty, not
``.`` or ``..``, at most 255 bytes of UTF-8, no NUL. A key that is both an object and a directory is
shown as the directory. ``.slayerfs`` at the root is the driver's own. Everything else is hidden,
logged once per directory and counted; it stays untouched in the bucket.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence

from csi_slayer.catalog import Listed
from csi_slayer.content.options import SCRATCH
from csi_slayer.errors import FsError, StoreError
from csi_slayer.store.base import ListPage, ObjectInfo

NAME_MAX = 255

NO_NAME = StoreError("no file name: empty, '.', '..', with NUL, not UTF-8, or over 255 bytes")
SHADOWED = StoreError("the same name is a directory")
"""Why keys are hidden."""


def decode(name: bytes) -> str:
    """A name from the kernel; S3 keys are UTF-8, so others cannot be kept (EILSEQ)."""
    if len(name) > NAME_MAX:
        raise FsError(errno.ENAMETOOLONG)
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise FsError(errno.EILSEQ, "the store's keys are UTF-8") from error


def showable(name: str, prefix: str) -> bool:
    """Whether a component found below ``prefix`` can be shown."""
    if name in ("", ".", "..") or "\0" in name or "/" in name:
        return False
    try:
        if len(name.encode()) > NAME_MAX:
            return False
    except UnicodeEncodeError:
        return False  # not UTF-8
    return not (prefix == "" and name == SCRATCH)


def check_new(name: str, parent_is_root: bool) -> None:
    """Refuse a new name that would be hidden."""
    if parent_is_root and name == SCRATCH:
        raise FsError(errno.EPERM, f"{SCRATCH} is the driver's own name")


def from_object(info: ObjectInfo, name: str) -> Listed:
    return Listed(name, stat.S_IFREG, info.size, info.mtime_ns, info.etag)


def from_page(page: ListPage, prefix: str, now_ns: int) -> tuple[list[Listed], list[str], bool]:
    """The names of a page of a directory's listing: (names, hidden keys, marker seen)."""
    found: list[Listed] = []
    hidden: list[str] = []
    marker = False
    start = len(prefix)
    for info in page.objects:
        name = info.key[start:]
        if name == "":
            marker = prefix != ""
            if marker and info.size:
                hidden.append(info.key)
        elif showable(name, prefix):
            found.append(from_object(info, name))
        elif name != SCRATCH:
            hidden.append(info.key)
    for key in page.prefixes:
        name = key[start:-1]
        if showable(name, prefix):
            found.append(Listed(name, stat.S_IFDIR, 0, now_ns, None))
        elif name != SCRATCH:
            hidden.append(key)
    return found, hidden, marker


def split_shadowed(
    found: Sequence[Listed], known_dirs: set[str]
) -> tuple[list[Listed], list[Listed]]:
    """Separate objects whose name is also a directory's: (to show, shadowed)."""
    dirs = known_dirs | {item.name for item in found if stat.S_ISDIR(item.mode)}
    shown = [item for item in found if stat.S_ISDIR(item.mode) or item.name not in dirs]
    shadowed = [item for item in found if not stat.S_ISDIR(item.mode) and item.name in dirs]
    return shown, shadowed
