"""The directory, walked by descriptors: no symlink is followed, so nothing leads outside."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from csi_slayer.errors import KeyObstructed
from csi_slayer.store.local.attributes import Attributes
from csi_slayer.store.local.names import HIDDEN, Place

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Tree:
    """The root of a store. Blocking; safe to use from several threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._make_hidden()
            self.hidden = os.open(HIDDEN, _FOLDER, dir_fd=self.root)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock_file = os.open("lock", flags, 0o600, dir_fd=self.hidden)
        except BaseException:
            os.close(self.root)
            raise
        self._lock = threading.Lock()
        self.attributes = Attributes(self.hidden)

    def _make_hidden(self) -> None:
        for name in (HIDDEN, f"{HIDDEN}/new", f"{HIDDEN}/uploads", f"{HIDDEN}/attributes"):
            try:
                os.mkdir(name, 0o700, dir_fd=self.root)
            except FileExistsError:
                pass

    def close(self) -> None:
        """Let go of the directory."""
        self.attributes.close()
        for fd in (self._lock_file, self.hidden, self.root):
            os.close(fd)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold off all other changes of this store, also those of other processes.

        Held for a few system calls only: conditions are checked and names changed under it.
        Directories that are in vain if its owner fails or dies are noted in its file, and pruned by
        whoever has it then: an empty directory is a marker.
        """
        with self._lock:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                self._carry_on()
                yield
                self._forget()
            except BaseException:
                self._carry_on()
                raise
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def emptying(self, folders: Sequence[Sequence[str]]) -> None:
        """Note that these directories may have to go with what is about to be removed. Call it
        under the lock."""
        noted = []
        for parts in filter(None, folders):
            with suppress(OSError), self.folder(parts):  # only what is there is emptied
                noted.append((parts, 0))
        self._note(noted)

    def _note(self, folders: Sequence[tuple[Sequence[str], int]]) -> None:
        """Each with how many of its components stay in any case."""
        text = "".join(f"{'/'.join(p[:kept])}//{'/'.join(p[kept:])}\0" for p, kept in folders)
        with suppress(OSError):  # a full disk: what is removed makes room
            os.pwrite(self._lock_file, text.encode(), 0)

    def _forget(self) -> None:
        if os.fstat(self._lock_file).st_size:
            os.ftruncate(self._lock_file, 0)

    def _carry_on(self) -> None:
        """Prune what is noted."""
        size = os.fstat(self._lock_file).st_size
        if size:
            text = os.pread(self._lock_file, size, 0).decode(errors="replace")
            for path in text.split("\0")[:-1]:  # the last was noted in part
                stays, _, rest = path.partition("//")
                kept = stays.split("/") if stays else []
                with suppress(OSError):
                    self.prune([*kept, *rest.split("/")], stay=len(kept))
            os.ftruncate(self._lock_file, 0)

    @contextmanager
    def folder(self, parts: Sequence[str]) -> Iterator[int]:
        """A descriptor of a directory below the root. Raises OSError (ENOENT, ENOTDIR, ELOOP)."""
        with self.folders(parts) as descriptors:
            yield descriptors[-1]

    @contextmanager
    def entries(self, parts: Sequence[str]) -> Iterator[Iterator[os.DirEntry[str]]]:
        """What is in a directory now. Raises OSError as :meth:`folder`.

        By a description of its own: two readers of one share its position, and each gets a part.
        Btrfs shows in one only what was there when it was made.
        """
        with self.folder(parts) as folder:
            fd = os.open(".", _FOLDER, dir_fd=folder)
        try:
            with os.scandir(fd) as entries:
                yield entries
        finally:
            os.close(fd)

    @contextmanager
    def folders(self, parts: Sequence[str]) -> Iterator[list[int]]:
        """Descriptors of all directories on the way, the root's first."""
        with ExitStack() as stack:
            descriptors = [self.root]
            for part in parts:
                fd = os.open(part, _FOLDER, dir_fd=descriptors[-1])
                stack.callback(os.close, fd)
                descriptors.append(fd)
            yield descriptors

    def make_folders(self, parts: Sequence[str]) -> None:
        """Make the directories that are missing, durably. Call it under the lock.

        Raises KeyObstructed where a file is in the way.
        """
        with ExitStack() as stack:
            fd = self.root
            noted = False
            for depth, part in enumerate(parts):
                try:
                    if not (noted or _exists(part, fd)):
                        noted = True
                        self._note([(parts, depth)])
                    os.mkdir(part, 0o777, dir_fd=fd)
                    try:
                        os.fsync(fd)
                    except OSError:
                        # Whoever finds it takes it for durable: the next attempt makes it anew.
                        os.rmdir(part, dir_fd=fd)
                        raise
                except FileExistsError:
                    pass
                try:
                    fd = os.open(part, _FOLDER, dir_fd=fd)
                except NotADirectoryError:
                    raise KeyObstructed(
                        f"{'/'.join(parts)!r}: {part!r} is an object, and a local directory cannot "
                        "hold objects below it"
                    ) from None
                stack.callback(os.close, fd)

    def prune(self, parts: Sequence[str], stay: int | None = None) -> None:
        """After objects of a directory were removed: remove those directories that existed only for
        them, then make all of it durable. ``stay``: so many stay, and of the others some may be
        missing.

        Call it under the lock. Directories that are markers stay.
        """
        with ExitStack() as stack:
            descriptors = [self.root]
            for part in parts:
                try:
                    fd = os.open(part, _FOLDER, dir_fd=descriptors[-1])
                except (FileNotFoundError, NotADirectoryError):
                    break  # removed before, which may not be durable yet
                stack.callback(os.close, fd)
                descriptors.append(fd)
            if stay is not None or len(descriptors) > len(parts):
                least = 1 + (stay or 0)
                while len(descriptors) > least and self._is_removed(parts, descriptors):
                    descriptors.pop()
            os.fsync(descriptors[-1])

    def _is_removed(self, parts: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Whether the last of these directories existed for its objects only, and is gone now."""
        depth = len(descriptors) - 1
        key = "/".join(parts[:depth]) + "/"
        if self.attributes.read_folder(descriptors[depth], key) is not None:
            return False
        try:
            os.rmdir(parts[depth - 1], dir_fd=descriptors[depth - 1])
        except OSError:
            return False  # not empty
        return True


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def stat_file(name: str, folder: int) -> os.stat_result | None:
    """A regular file's status; None if there is nothing.

    Raises KeyObstructed if something else has the name.
    """
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISREG(status.st_mode):
        return status
    kind = "a directory" if stat.S_ISDIR(status.st_mode) else "no regular file"
    raise KeyObstructed(f"{name!r} is {kind} in the local directory: no object can replace it")


def open_file(tree: Tree, place: Place) -> int:
    """A descriptor to read a regular file. Raises OSError (ENXIO for something else)."""
    with tree.folder(place.folders) as folder:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(place.name, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.key)
    return fd
