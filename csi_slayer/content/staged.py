"""A file whose whole content is a staged copy on the local disk."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

from csi_slayer.cache import Staging, filesystem
from csi_slayer.cache.filesystem import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from csi_slayer.content.pace import pace
from csi_slayer.content.ranges import FileRange, ReadResult
from csi_slayer.content.threads import to_its_end
from csi_slayer.errors import CacheFull, FsError

if TYPE_CHECKING:
    from csi_slayer.content.overlay import OverlayFile

LARGE = 4 << 20
"""Bytes of a staged file from which on it takes a millisecond to free its pages and blocks."""

COPIED_AT_ONCE = 64 << 20
"""Bytes of a copy after which it is looked whether somebody still wants it."""


class StagedFile:
    """An open staged copy; its descriptor can serve as a passthrough backing file.

    Owns ``fd``. Raises CacheFull (ENOSPC) when the disk is full.
    """

    def __init__(self, stage: str, path: str, fd: int) -> None:
        self.stage = stage
        self.path = path
        self.fd = fd

    @property
    def whole_fd(self) -> int | None:
        return self.fd

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def stat(self) -> os.stat_result:
        return os.fstat(self.fd)

    async def read(self, offset: int, size: int) -> ReadResult:
        return FileRange(self.fd, offset, size)

    async def write(self, offset: int, data: memoryview) -> int:
        return write_fully(self.fd, offset, data)

    async def write_aside(self, offset: int, data: memoryview) -> int:
        """The same by a thread, as programs write whose files the kernel serves."""
        fd = self.fd
        return await to_its_end(lambda _unwanted: write_fully(fd, offset, data))

    async def truncate(self, size: int) -> None:
        fd = self.fd
        with os_errors():
            if self.size:  # it has pages, which may be on their way to the disk: waits for them
                await to_its_end(lambda _unwanted: os.ftruncate(fd, size))
            else:
                os.ftruncate(fd, size)

    def sync(self) -> None:
        """Make the staged bytes durable on the local disk. Blocks: call in a thread. Raises
        NotKept."""
        sync(self.fd)

    async def close(self) -> None:
        os.close(self.fd)


async def remove_staged(staging: Staging, stage: str) -> None:
    """Remove a staged file, if there is one. Raises CacheError."""
    try:
        is_large = os.stat(staging.file(stage)).st_blocks * 512 >= LARGE
    except OSError:
        is_large = False
    if is_large:
        await to_its_end(lambda _unwanted: staging.remove(stage))
    else:
        staging.remove(stage)


def write_fully(fd: int, offset: int, data: memoryview) -> int:
    """Bytes written: fewer than there are if something is in the way of the rest, as write(2) would
    say. Raises CacheFull and OSError for the first byte."""
    written = 0
    begun = time.perf_counter()
    with os_errors():
        while written < len(data):
            try:
                written += os.pwrite(fd, data[written:], offset + written)
            except OSError:
                if not written:
                    raise
                break
    pace.took(time.perf_counter() - begun)
    return written


class NotKept(FsError):
    """The local disk has lost bytes that the page cache took."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            error.errno or errno.EIO, "the disk of the cache did not keep what was written"
        )


def sync(fd: int) -> None:
    """Make a staged file durable, with its mtime, by which it is known to be changed, and its name:
    of these fdatasync(2) knows nothing. Blocks. Raises NotKept: once only, for the kernel takes the
    pages for written then."""
    try:
        os.fsync(fd)
    except OSError as error:
        raise NotKept(error) from error


class os_errors:
    """Translate OSError of the staging disk; a full disk is the cache's ENOSPC."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CacheFull(f"the cache directory's disk is full: {error.strerror}") from error
            if error.errno == errno.EMFILE:  # the worker's, not the program's
                raise FsError(errno.ENFILE, "the worker's limit of open files") from error
            raise FsError(error.errno or errno.EIO) from error


class discarding:
    """For ``async with``: a new staged file is closed and removed again if the block fails."""

    __slots__ = ("_file", "_staging")

    def __init__(self, staging: Staging, file: StagedFile | OverlayFile) -> None:
        self._staging = staging
        self._file = file

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            await self._file.close()
            self._staging.remove(self._file.stage)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2); where the file system makes no zeros (tmpfs), a hole that is filled then.

    Blocks: use a thread."""
    with os_errors():
        try:
            filesystem.fallocate(fd, mode, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or not mode & ZERO_RANGE:
                raise
            filesystem.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            filesystem.fallocate(fd, mode & KEEP_SIZE, offset, length)


def copy_range(
    source: int,
    offset: int,
    target: int,
    target_offset: int,
    length: int,
    unwanted: threading.Event,
) -> int:
    """Copy bytes between local files in the kernel; returns how many, fewer than ``length`` at the
    end of the source or once ``unwanted`` is set. Blocks: use a thread."""
    copied = 0
    with os_errors():
        while copied < length and not unwanted.is_set():
            n = os.copy_file_range(
                source,
                target,
                min(length - copied, COPIED_AT_ONCE),
                offset + copied,
                target_offset + copied,
            )
            if n == 0:
                break
            copied += n
    return copied
