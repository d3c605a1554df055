"""POSIX attributes as an object's user metadata, and back.

The names ``mode``, ``uid``, ``gid`` and ``mtime`` are those that s3fs uses (decimal mode with
type bits; seconds). ``slayerfs-target`` holds a symlink's target, ``slayerfs-xattrs``
extended attributes (JSON of base64). S3 allows 2 KiB in all. Names that other programs have given
stay where an object gets other attributes with the same bytes.
"""

from __future__ import annotations

import base64
import json
import re
import stat
from collections.abc import Mapping
from typing import Any

from csi_slayer.catalog import Defaults, Inode
from csi_slayer.store.base import storable_time

NAMES = ("mode", "uid", "gid", "mtime", "slayerfs-target", "slayerfs-xattrs")
"""Those that are ours."""

XATTR_LIMIT = 1200
"""What of it extended attributes may take, encoded."""

TEXT_LIMIT = 1800
"""What of it a symbolic link's target and its extended attributes may take together, as stored."""

XATTR_NAMESPACES = (b"user", b"trusted", b"security")
"""See xattr(7)."""

_SECOND = 1_000_000_000

# Anybody may write metadata: what is taken for a number is short, or to read it takes for ever.
_SECONDS = re.compile(r"(-?)([0-9]{1,11})(?:\.([0-9]{0,20}))?")
_XATTR_NAME = re.compile(
    rb"(?=.{1,255}\Z)(?:" + b"|".join(XATTR_NAMESPACES) + rb")\.[^\0]+", re.DOTALL
)


def encode(
    inode: Inode, xattrs: Mapping[bytes, bytes], defaults: Defaults, *, full: bool
) -> dict[str, str]:
    """Metadata to write with an object; empty where the defaults say the same (unless ``full``)."""
    permissions = defaults.dir_mode if inode.is_dir else defaults.file_mode
    plain = inode.is_file or inode.is_dir
    usual = (stat.S_IMODE(inode.mode), inode.uid, inode.gid) == (
        permissions,
        defaults.uid,
        defaults.gid,
    )
    if plain and usual and not xattrs and not full:
        return {}
    values = {
        "mode": str(inode.mode),
        "uid": str(inode.uid),
        "gid": str(inode.gid),
        "mtime": _seconds(inode.mtime_ns),
    }
    if inode.target is not None:
        values["slayerfs-target"] = inode.target
    if xattrs:
        values["slayerfs-xattrs"] = encode_xattrs(xattrs)
    return values


def instead(values: Mapping[str, str]) -> dict[str, str | None]:
    """What :func:`encode` gave, as a change of the metadata of an object that is there."""
    return {**dict.fromkeys(NAMES), **values}


def encode_xattrs(xattrs: Mapping[bytes, bytes]) -> str:
    """Extended attributes as one metadata value."""
    return json.dumps(
        {
            base64.b64encode(name).decode(): base64.b64encode(value).decode()
            for name, value in sorted(xattrs.items())
        },
        separators=(",", ":"),
    )


def stored_length(text: str) -> int:
    """Bytes that a value takes at most: what is not plain is percent-encoded."""
    data = text.encode()
    plain = sum(0x20 < byte < 0x7F and byte != 0x25 for byte in data)
    return 3 * len(data) - 2 * plain


def decode(metadata: Mapping[str, str], inode: Inode) -> dict[str, Any]:
    """Column values that an object's metadata gives for ``inode``; what is malformed is ignored.

    The type may become that of a symlink, fifo or socket only if the object is empty, and a
    directory's stays: metadata that anybody wrote must not turn a file's content invisible.
    """
    values: dict[str, Any] = {}
    mode = _integer(metadata.get("mode"))
    if mode is not None:
        kind = stat.S_IFMT(mode)
        special = kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK) and inode.size == 0
        target = metadata.get("slayerfs-target", "")
        if special and (kind != stat.S_IFLNK or (target and "\0" not in target)):
            values["mode"] = kind | stat.S_IMODE(mode)
            if kind == stat.S_IFLNK:
                values["target"] = target
        else:
            values["mode"] = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
    for name in ("uid", "gid"):
        number = _integer(metadata.get(name))
        if number is not None and 0 <= number < 2**32 - 1:
            values[name] = number
    mtime = _nanoseconds(metadata.get("mtime"))
    if mtime is not None:
        values["mtime_ns"] = mtime
    return values


def _seconds(nanoseconds: int) -> str:
    whole, fraction = divmod(abs(nanoseconds), _SECOND)
    return f"{'-' if nanoseconds < 0 else ''}{whole}.{fraction:09d}"


def decode_xattrs(metadata: Mapping[str, str]) -> dict[bytes, bytes]:
    """Extended attributes; empty if there are none or they are malformed."""
    text = metadata.get("slayerfs-xattrs")
    if text is None:
        return {}
    try:
        items = json.loads(text)
        found = {
            base64.b64decode(name, validate=True): base64.b64decode(value, validate=True)
            for name, value in items.items()
        }
    except (ValueError, AttributeError, TypeError, RecursionError):
        return {}
    return {name: value for name, value in found.items() if _XATTR_NAME.fullmatch(name)}


def _integer(text: str | None) -> int | None:
    """A number of 32 bits, which all that are kept as decimals are."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return int(text) if int(text) < 2**32 else None


def _nanoseconds(text: str | None) -> int | None:
    found = _SECONDS.fullmatch(text) if text is not None else None
    if found is None:
        return None
    sign, whole, fraction = found.groups()
    value = int(whole) * _SECOND + int((fraction or "")[:9].ljust(9, "0"))
    value = -value if sign else value
    return value if storable_time(value) == value else None
