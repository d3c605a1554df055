"""Multipart uploads, blocking: parts are files in the hidden directory."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from csi_slayer.errors import ObjectNotFound, PreconditionFailed, StoreError, StoreUnsupported
from csi_slayer.store.base import Condition, ObjectInfo, PendingUpload
from csi_slayer.store.local.attributes import Extra, etag_of, make_extra
from csi_slayer.store.local.drafts import Draft, current_object, same_write
from csi_slayer.store.local.names import HIDDEN, Place
from csi_slayer.store.local.reads import file_info
from csi_slayer.store.local.tree import Tree, open_file


@dataclass(frozen=True, slots=True)
class _About:
    """What is kept of an upload beside its parts."""

    key: str
    started_ns: int
    metadata: Mapping[str, str]
    token: str | None


_ID = re.compile(r"[0-9a-f]{32}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Leftovers older than this are removed when the store is opened (seconds): drafts of a process
# that died, and uploads that nobody will complete.
_DRAFTS_LIVE = 24 * 3600.0
_UPLOADS_LIVE = 7 * 24 * 3600.0


def begin(tree: Tree, place: Place, metadata: Mapping[str, str] | None) -> str:
    """A new upload's id."""
    if place.marker:
        raise StoreUnsupported(f"{place.key!r} is a directory and cannot hold bytes")
    upload_id = secrets.token_hex(16)
    extra = make_extra(metadata)
    about = _About(place.key, time.time_ns(), dict(extra.metadata), extra.token)
    with _uploads(tree) as uploads:
        os.mkdir(upload_id, 0o700, dir_fd=uploads)
        folder = os.open(upload_id, _FOLDER, dir_fd=uploads)
        try:
            fd = os.open("about", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            with open(fd, "w", encoding="utf-8") as file:
                json.dump(asdict(about), file)
                file.flush()
                os.fsync(fd)
            os.fsync(folder)
        finally:
            os.close(folder)
        os.fsync(uploads)
    return upload_id


def add_part(
    tree: Tree,
    place: Place,
    upload_id: str,
    number: int,
    fill: Callable[[Draft], None],
    proceed: Callable[[], None],
) -> str:
    """Store a part; its etag."""
    with _upload(tree, place.key, upload_id) as (folder, _), Draft(tree, proceed) as draft:
        fill(draft)
        etag = draft.finish(place.key, Extra())
        draft.rename_into(folder, _part_name(number))
        return etag


def copy_part(
    tree: Tree,
    place: Place,
    upload_id: str,
    number: int,
    source: Place,
    source_etag: str,
    offset: int,
    length: int,
    proceed: Callable[[], None],
) -> str:
    """A part made of another object's range; its etag."""
    fd = open_file(tree, source)
    try:

        def fill(draft: Draft) -> None:
            if file_info(tree, source.key, fd).etag != source_etag:
                raise PreconditionFailed(f"{source.key!r}: the object is another version")
            draft.append_file(fd, offset, length)
            if etag_of(os.fstat(fd)) != source_etag:
                raise PreconditionFailed(f"{source.key!r} changed while it was copied")

        return add_part(tree, place, upload_id, number, fill, proceed)
    finally:
        os.close(fd)


def complete(
    tree: Tree,
    place: Place,
    upload_id: str,
    parts: Sequence[tuple[int, str]],
    condition: Condition,
    proceed: Callable[[], None],
) -> ObjectInfo:
    """Assemble the object; an upload that has been completed already is no error."""
    try:
        with (
            _upload(tree, place.key, upload_id) as (folder, extra),
            Draft(tree, proceed) as draft,
        ):
            for number, etag in parts:
                _append_part(draft, folder, number, etag)
            info = draft.publish(place, condition, extra)
    except ObjectNotFound:
        current = current_object(tree, place)
        if current is None or not same_write(tree, place, current.etag, Extra(upload=upload_id)):
            raise
        with tree.folder(place.folders) as folder:
            os.fsync(folder)  # who completed it may not have come to that
        return current
    abort(tree, upload_id)
    return info


def _append_part(draft: Draft, folder: int, number: int, etag: str) -> None:
    try:
        fd = os.open(_part_name(number), os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        raise StoreError(f"part {number} has not been uploaded") from None
    try:
        status = os.fstat(fd)
        if etag_of(status) != etag:
            raise StoreError(f"part {number} is another version than the one to be used")
        draft.append_file(fd, 0, status.st_size)
    finally:
        os.close(fd)


def abort(tree: Tree, upload_id: str) -> None:
    """Remove an upload; it need not exist."""
    if _ID.fullmatch(upload_id) is None:
        return
    with _uploads(tree) as uploads:
        shutil.rmtree(upload_id, ignore_errors=True, dir_fd=uploads)


def pending(tree: Tree, prefix: str) -> list[PendingUpload]:
    """Uploads under way below a prefix, in key order."""
    found = []
    with _uploads(tree) as uploads:
        for name in os.listdir(uploads):
            about = _read_about(uploads, name)
            if about is not None and about.key.startswith(prefix):
                found.append(PendingUpload(about.key, name, about.started_ns))
    return sorted(found, key=lambda upload: (upload.key, upload.started_ns))


def clean(tree: Tree, now: float) -> None:
    """Remove what processes that died have left, by age; ``now`` in seconds since 1970."""
    with _uploads(tree) as uploads:
        for name in os.listdir(uploads):
            with suppress(FileNotFoundError):  # completed or aborted meanwhile
                if now - os.stat(name, dir_fd=uploads).st_mtime > _UPLOADS_LIVE:
                    shutil.rmtree(name, ignore_errors=True, dir_fd=uploads)
    folder = os.open(f"{HIDDEN}/new", _FOLDER, dir_fd=tree.root)
    try:
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):  # published meanwhile
                if now - os.stat(name, dir_fd=folder).st_mtime > _DRAFTS_LIVE:
                    os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


@contextmanager
def _uploads(tree: Tree) -> Iterator[int]:
    fd = os.open("uploads", _FOLDER, dir_fd=tree.hidden)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _upload(tree: Tree, key: str, upload_id: str) -> Iterator[tuple[int, Extra]]:
    """The upload's directory and what its object will have. Raises ObjectNotFound."""
    with _uploads(tree) as uploads:
        about = _read_about(uploads, upload_id)
        if about is None or about.key != key:
            raise ObjectNotFound(f"{key!r}: there is no such multipart upload")
        folder = os.open(upload_id, _FOLDER, dir_fd=uploads)
    try:
        yield folder, Extra(about.metadata, about.token, upload_id)
    finally:
        os.close(folder)


def _read_about(uploads: int, upload_id: str) -> _About | None:
    if _ID.fullmatch(upload_id) is None:
        return None
    try:
        fd = os.open(f"{upload_id}/about", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=uploads)
        with open(fd, encoding="utf-8") as file:
            return _About(**json.load(file))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _part_name(number: int) -> str:
    return f"part-{number:05d}"
