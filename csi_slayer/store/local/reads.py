"""Reading, blocking: status, ranges."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from csi_slayer.errors import InvalidRange, PreconditionFailed, StoreIntegrityError
from csi_slayer.store.base import ObjectInfo, RangeSink
from csi_slayer.store.local.attributes import Extra, etag_of, mtime_of
from csi_slayer.store.local.names import Place
from csi_slayer.store.local.tree import Tree, open_file


def marker_etag(status: os.stat_result, extra: Extra | None) -> str:
    """The version of a marker: its directory and the write that marked it."""
    return f'"d{status.st_ino:x}-{extra.nonce if extra is not None else ""}"'


def file_info(tree: Tree, key: str, fd: int) -> ObjectInfo:
    """Of an open file."""
    status = os.fstat(fd)
    etag = etag_of(status)
    extra = tree.attributes.read_file(fd, key, etag)
    return ObjectInfo(key, status.st_size, etag, mtime_of(status), extra.metadata, extra.token)


def marker_info(tree: Tree, key: str, fd: int) -> ObjectInfo | None:
    """Of an open directory, if it is a marker: somebody made it one, or it is empty."""
    extra = tree.attributes.read_folder(fd, key)
    if extra is None and not is_empty(fd):
        return None
    status = os.fstat(fd)
    metadata = extra.metadata if extra is not None else {}
    return ObjectInfo(key, 0, marker_etag(status, extra), mtime_of(status), metadata)


def is_empty(fd: int) -> bool:
    """Whether a directory has no entries."""
    with os.scandir(fd) as entries:
        return next(entries, None) is None


def head(tree: Tree, place: Place) -> ObjectInfo:
    """Of the object at a place. Raises OSError (ENOENT and the like)."""
    if place.marker:
        with tree.folder(place.directory) as fd:
            info = marker_info(tree, place.key, fd)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.key)
        return info
    fd = open_file(tree, place)
    try:
        return file_info(tree, place.key, fd)
    finally:
        os.close(fd)


def get(
    tree: Tree, place: Place, offset: int, length: int | None, if_match: str | None, most: int
) -> tuple[ObjectInfo, bytes]:
    """A range into memory, at most ``most`` bytes where no length is given."""
    if place.marker:
        info = head(tree, place)
        _check_version(place.key, info.etag, if_match)
        _check_range(place.key, info.size, offset, length)
        return info, b""
    fd = open_file(tree, place)
    try:
        info = file_info(tree, place.key, fd)
        _check_version(place.key, info.etag, if_match)
        _check_range(place.key, info.size, offset, length)
        wanted = info.size - offset
        if length is not None:
            wanted = min(length, wanted)
        elif wanted > most:
            raise StoreIntegrityError(f"{place.key!r}: {wanted} bytes are too much for memory")
        data = bytearray(wanted)
        read_fully(fd, memoryview(data), offset)
        if etag_of(os.fstat(fd)) != info.etag:
            raise PreconditionFailed(f"{place.key!r} changed while it was read")
        return info, bytes(data)
    finally:
        os.close(fd)


def fetch(
    tree: Tree,
    place: Place,
    offset: int,
    length: int,
    if_match: str,
    sink: RangeSink,
    proceed: Callable[[], None],
) -> None:
    """A range into a sink; ``proceed`` raises if it is to stop."""
    fd = open_file(tree, place)
    try:
        info = file_info(tree, place.key, fd)
        _check_version(place.key, info.etag, if_match)
        if offset + length > info.size:
            raise InvalidRange(f"{place.key!r}: the range is not within the object")
        buffer: memoryview | None = None
        position, end = offset, offset + length
        while position < end:
            proceed()
            size = min(sink.piece - position % sink.piece, end - position)
            view = sink.room(size)
            if view is None:
                buffer = buffer or memoryview(bytearray(min(sink.piece, length)))
                view = buffer[:size]
            read_fully(fd, view, position)
            # Before the bytes are passed on: a file changed in place is a mixture of versions.
            if etag_of(os.fstat(fd)) != if_match:
                raise PreconditionFailed(f"{place.key!r} changed while it was read")
            sink.write(position, view)
            position += size
    finally:
        os.close(fd)


def read_fully(fd: int, view: memoryview, offset: int) -> None:
    """Fill ``view``. Raises PreconditionFailed if the file has become too short for it."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            raise PreconditionFailed("the object became shorter while it was read")
        done += count


def _check_version(key: str, etag: str, if_match: str | None) -> None:
    if if_match is not None and etag != if_match:
        raise PreconditionFailed(f"{key!r}: the object is another version")


def _check_range(key: str, size: int, offset: int, length: int | None) -> None:
    ranged = offset > 0 or length is not None
    if ranged and length != 0 and offset >= size:
        raise InvalidRange(f"{key!r}: the range is not within the object")
