"""New objects before they have their name: written, stamped, made durable, then published."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable

from csi_slayer.errors import KeyObstructed, PreconditionFailed, SourceShort
from csi_slayer.store.base import Condition, ObjectInfo
from csi_slayer.store.local.attributes import Extra, etag_of, mtime_of
from csi_slayer.store.local.names import Place
from csi_slayer.store.local.tree import Tree, stat_file

# Bytes copied between two looks at whether to stop.
_CHUNK = 16 << 20
# Bytes written between two syncs: one of everything could take so long that it passes for
# standing still.
_SYNC = 128 << 20
_NO_COPY_RANGE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)


class Draft:
    """A file in the hidden directory; removed on exit unless it was published."""

    def __init__(self, tree: Tree, proceed: Callable[[], None]) -> None:
        self._tree = tree
        self._proceed = proceed
        self._folder = os.open("new", os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree.hidden)
        self._name = secrets.token_hex(8)
        self._published = False
        self._unsynced = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self.fd = os.open(self._name, flags, 0o666, dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if not self._published:
            os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B") if data else memoryview(b"")
        while view:
            self._proceed()
            count = os.write(self.fd, view[:_CHUNK])
            self._written(count)
            view = view[count:]

    def append_file(self, source: int, offset: int, length: int) -> None:
        """Append a file's range, in the kernel where it can. Raises SourceShort."""
        done = 0
        in_kernel = True
        while done < length:
            self._proceed()
            size = min(_CHUNK, length - done)
            if in_kernel:
                try:
                    count = os.copy_file_range(source, self.fd, size, offset + done)
                except OSError as error:
                    if error.errno not in _NO_COPY_RANGE:
                        raise
                    in_kernel = False
                    continue
                self._written(count)
            else:
                data = os.pread(source, min(size, 1 << 20), offset + done)
                self.write(data)
                count = len(data)
            if count == 0:
                raise SourceShort
            done += count

    def _written(self, count: int) -> None:
        self._unsynced += count
        if self._unsynced >= _SYNC:
            os.fdatasync(self.fd)
            self._unsynced = 0

    def finish(self, key: str, extra: Extra) -> str:
        """Make it durable, with a time stamp of its own; its etag."""
        now = time.time_ns()
        os.utime(self.fd, ns=(now, now))
        etag = etag_of(os.fstat(self.fd))
        self._tree.attributes.write_file(self.fd, key, etag, extra)
        os.fsync(self.fd)
        return etag

    def publish(self, place: Place, condition: Condition, extra: Extra) -> ObjectInfo:
        """Give it the key's name if the condition holds, durably.

        Raises PreconditionFailed; but a write that repeats the token or the upload of the object
        that is there is answered by that object.
        """
        tree = self._tree
        etag = self.finish(place.key, extra)
        with tree.locked():
            current = current_object(tree, place)
            if not condition.holds(current):
                if current is None or not same_write(tree, place, current.etag, extra):
                    raise PreconditionFailed(
                        f"{place.key!r}: the object is not the expected version"
                    )
                answer = current
                with tree.folder(place.folders) as folder:
                    folder = os.dup(folder)
            else:
                answer = _info(place, self.fd, etag, extra)
                tree.make_folders(place.folders)
                with tree.folder(place.folders) as folder:
                    os.rename(self._name, place.name, src_dir_fd=self._folder, dst_dir_fd=folder)
                    self._published = True
                    folder = os.dup(folder)
                if current is not None:
                    tree.attributes.drop_file(place.key, current.etag)
        try:
            # The lock is not held for that long. Also of what is there already: who wrote it may
            # have been killed before this, or have failed at it.
            os.fsync(folder)
        finally:
            os.close(folder)
        return answer

    def rename_into(self, folder: int, name: str) -> None:
        """Give it a name in another directory, replacing what has it."""
        os.rename(self._name, name, src_dir_fd=self._folder, dst_dir_fd=folder)
        self._published = True
        os.fsync(folder)


def _info(place: Place, fd: int, etag: str, extra: Extra) -> ObjectInfo:
    status = os.fstat(fd)
    return ObjectInfo(place.key, status.st_size, etag, mtime_of(status), extra.metadata)


def current_object(tree: Tree, place: Place) -> ObjectInfo | None:
    """The object that has the name now. Raises KeyObstructed if something else has it."""
    try:
        with tree.folder(place.folders) as folder:
            status = stat_file(place.name, folder)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise KeyObstructed(
            f"{place.key!r}: an object is in the way, and a local directory cannot hold objects "
            "below it"
        ) from None
    if status is None:
        return None
    return ObjectInfo(place.key, status.st_size, etag_of(status), mtime_of(status), {})


def same_write(tree: Tree, place: Place, etag: str, extra: Extra) -> bool:
    """Whether the object that is there was made by this very write."""
    with tree.folder(place.folders) as folder:
        fd = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        there = tree.attributes.read_file(fd, place.key, etag)
    finally:
        os.close(fd)
    same_token = extra.token is not None and there.token == extra.token
    return same_token or (extra.upload is not None and there.upload == extra.upload)
