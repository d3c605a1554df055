"""Writing, copying and deleting, blocking."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence

from csi_slayer.errors import PreconditionFailed, StoreUnsupported
from csi_slayer.store.base import Condition, ObjectInfo, changed
from csi_slayer.store.local.attributes import Extra, etag_of, make_extra, mtime_of
from csi_slayer.store.local.drafts import Draft
from csi_slayer.store.local.names import Place
from csi_slayer.store.local.reads import file_info, head, marker_etag, marker_info
from csi_slayer.store.local.tree import Tree, open_file


def put(
    tree: Tree,
    place: Place,
    fill: Callable[[Draft], None],
    size: int,
    condition: Condition,
    metadata: Mapping[str, str] | None,
    proceed: Callable[[], None],
) -> ObjectInfo:
    """An object whose bytes ``fill`` writes."""
    extra = make_extra(metadata)
    if place.marker:
        return _mark(tree, place, size, condition, extra)
    with Draft(tree, proceed) as draft:
        fill(draft)
        return draft.publish(place, condition, extra)


def _mark(tree: Tree, place: Place, size: int, condition: Condition, extra: Extra) -> ObjectInfo:
    if size:
        raise StoreUnsupported(
            f"{place.key!r}: a key that ends in a slash is a directory and cannot hold bytes"
        )
    with tree.locked():
        try:
            current: ObjectInfo | None = head(tree, place)
        except (FileNotFoundError, NotADirectoryError):
            current = None
        if not condition.holds(current):
            if current is not None and _same_marker(tree, place, extra):
                return current
            raise PreconditionFailed(f"{place.key!r}: the object is not the expected version")
        tree.make_folders(place.directory)
        with tree.folder(place.directory) as fd:
            marked = tree.attributes.write_folder(fd, place.key, extra)
            os.fsync(fd)
            status = os.fstat(fd)
    etag = marker_etag(status, marked)
    return ObjectInfo(place.key, 0, etag, mtime_of(status), marked.metadata)


def _same_marker(tree: Tree, place: Place, extra: Extra) -> bool:
    """Whether the marker that is there was made by this very write; it is durable then."""
    with tree.folder(place.directory) as fd:
        there = tree.attributes.read_folder(fd, place.key)
        same = there is not None and extra.token is not None and there.token == extra.token
        if same:
            os.fsync(fd)  # who wrote it may not have come to that
        return same


def copy(
    origin: Tree,
    source: Place,
    tree: Tree,
    target: Place,
    source_etag: str | None,
    metadata: Mapping[str, str | None] | None,
    condition: Condition,
    proceed: Callable[[], None],
) -> ObjectInfo:
    """Copy one version of the source, which may be in another directory."""
    if source.marker or target.marker:
        info = head(origin, source)
        _check_source(info, source_etag)
        extra = _changed(info, metadata)
        if target.marker:
            return _mark(tree, target, info.size, condition, extra)
        with Draft(tree, proceed) as draft:
            return draft.publish(target, condition, extra)
    fd = open_file(origin, source)
    try:
        info = file_info(origin, source.key, fd)
        _check_source(info, source_etag)
        extra = _changed(info, metadata)
        with Draft(tree, proceed) as draft:
            draft.append_file(fd, 0, info.size)
            if etag_of(os.fstat(fd)) != info.etag:
                raise PreconditionFailed(f"{source.key!r} changed while it was copied")
            return draft.publish(target, condition, extra)
    finally:
        os.close(fd)


def _changed(source: ObjectInfo, changes: Mapping[str, str | None] | None) -> Extra:
    found = source.metadata or {}
    return make_extra(found if changes is None else changed(found, changes))


def _check_source(info: ObjectInfo, source_etag: str | None) -> None:
    if source_etag is not None and info.etag != source_etag:
        raise PreconditionFailed(f"{info.key!r}: the object is another version")


def delete(tree: Tree, places: Sequence[Place]) -> None:
    """Remove objects of one directory, durably; those that are absent are no error."""
    folders = places[0].folders
    emptied = [folders, *(place.directory for place in places if place.marker)]
    with tree.locked():
        tree.emptying(emptied)
        for place in places:
            try:
                if place.marker:
                    _unmark(tree, place)
                else:
                    _unlink(tree, place)
            except (FileNotFoundError, NotADirectoryError):
                continue
        tree.prune(folders)


def _unlink(tree: Tree, place: Place) -> None:
    with tree.folder(place.folders) as folder:
        status = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            os.unlink(place.name, dir_fd=folder)
            tree.attributes.drop_file(place.key, etag_of(status))


def _unmark(tree: Tree, place: Place) -> None:
    with tree.folders(place.directory) as descriptors:
        own = descriptors[-1]
        if marker_info(tree, place.key, own) is None:
            return
        tree.attributes.drop_folder(own, place.key)
        try:
            os.rmdir(place.name, dir_fd=descriptors[-2])
        except OSError:
            os.fsync(own)  # it has objects: it stays, but is a marker no longer
