"""Files that are open: one record per inode, whatever the number of handles."""

from __future__ import annotations

import asyncio
import enum
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from csi_slayer.catalog import Inode, Mark
from csi_slayer.content.clean import CleanFile
from csi_slayer.content.overlay import OverlayFile
from csi_slayer.content.patient import Patient
from csi_slayer.content.settling import settle, settled_mtime
from csi_slayer.content.staged import StagedFile, os_errors
from csi_slayer.errors import SlayerError

log = structlog.get_logger(__name__)

File = CleanFile | StagedFile | OverlayFile

LocalFile = tuple[int, int]
"""Device and inode number: which local file it is, whatever its name."""

UNKNOWN_FILE: Final[LocalFile] = (0, 0)
"""Of handles that an older program wrote down."""


def local_file(fd: int) -> LocalFile:
    """Which file a descriptor is of."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


class IoMode(enum.IntEnum):
    """How the kernel does an inode's I/O, until its last handle is released.

    The kernel refuses (EIO) to mix CACHED and PASSTHROUGH opens of one inode, and two backing
    files; a DIRECT open goes with either, naming the backing file where there is one.
    """

    NONE = 0
    CACHED = 1
    PASSTHROUGH = 2
    DIRECT = 3


@dataclass(slots=True)
class OpenInode:
    """``lock`` guards the change of ``file``; reads and writes through it do not take it.

    ``users``: handles plus calls under way; ``handles``: those alone; ``writers``: handles open
    for writing.
    ``backing_id`` is the kernel's, 0 unless ``mode`` is PASSTHROUGH; ``backing_file`` is the local
    file behind it. What is mapped is always in that one, so whenever somebody opens the inode
    ``file`` has to be the same, or the name gets another inode. ``past_cache``: somebody may have
    the kernel write past the page cache; ``unsure``: something was sent meanwhile. ``unlinked``:
    it lost its name while open. ``retimed``: how often its mtime was set, which then tells nothing
    of changes.
    ``synced``: of the syncs of the staged file, numbered as they began (``syncs_begun`` is the last
    one's number), the last that ended well. ``growing``: sizes that calls under way make it grow
    to, which count already.
    """

    ino: int
    file: File | None = None
    users: int = 0
    handles: int = 0
    writers: int = 0
    mode: IoMode = IoMode.NONE
    backing_id: int = 0
    backing_file: LocalFile = UNKNOWN_FILE
    past_cache: bool = False
    unsure: bool = False
    unlinked: bool = False
    retimed: int = 0
    syncs_begun: int = 0
    synced: int = 0
    growing: list[int] = field(default_factory=list)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def hold(self, flags: int) -> None:
        """A handle more, which was opened with these flags."""
        self.handles += 1
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.writers += 1
            self.past_cache |= bool(flags & os.O_DIRECT)

    def leave(self, *, writable: bool) -> bool:
        """A handle less. Whether what was sent is to be looked at once more: a write past the page
        cache that does not wait (libaio, io_uring) sets the mtime when it begins, and has no lock
        until its bytes are there; but it has its handle."""
        self.handles -= 1
        if not writable:
            return False
        self.writers -= 1
        if self.writers or not self.past_cache:
            return False
        unsure, self.past_cache, self.unsure = self.unsure, False, False
        self.retimed += unsure
        return unsure

    def is_backed_by(self, fd: int | None) -> bool:
        """Whether the kernel's backing file, of which there must be one, is this file."""
        if self.backing_file == UNKNOWN_FILE:
            return True  # as it nearly always is; else who writes to it would lose its name
        return fd is not None and self.backing_file == local_file(fd)

    @property
    def is_apart(self) -> bool:
        """Whether the kernel has a backing file that is another one than ``file``."""
        if self.backing_id == 0:
            return False
        return not self.is_backed_by(None if self.file is None else self.file.whole_fd)


class Held:
    """See :meth:`OpenInodes.held`."""

    __slots__ = ("_inodes", "record")

    def __init__(self, inodes: OpenInodes, ino: int) -> None:
        self._inodes = inodes
        self.record = inodes.use(ino)

    async def __aenter__(self) -> OpenInode:
        return self.record

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self._inodes.let_go(self.record)


@contextmanager
def letting_go(ino: int) -> Iterator[None]:
    """Around :meth:`OpenInodes.let_go` where nobody is there to be told of an error."""
    try:
        yield
    except SlayerError as error:
        log.warning("letting go of an inode failed", ino=ino, error=str(error))


class OpenInodes:
    """All open inodes of the volume."""

    def __init__(self) -> None:
        self._inodes: dict[int, OpenInode] = {}
        self.changing: set[int] = set()
        """Inodes that are being made fit for writing."""
        self.mappable: set[int] = set()
        """Inodes whose staged copies somebody may have mapped, see
        :mod:`csi_slayer.content.mapped`, be they open or not."""
        self.patient = Patient()
        """For what waits until programs have written into the files."""
        self.let_go: Callable[[OpenInode], Coroutine[Any, Any, None]] = self._close
        """One user less; gives back what the last one leaves. The VFS puts its own here, which
        also tells the kernel."""

    async def _close(self, record: OpenInode) -> None:
        if self.drop(record):
            if record.file is not None:
                await record.file.close()

    def held(self, ino: int) -> Held:
        """For ``async with``: the record of an inode, which is not closed before the end of the
        block. Whoever waits with a file of it in hand needs this, or its descriptor may become
        another file's."""
        return Held(self, ino)

    async def settle(self, record: OpenInode, fd: int) -> int:
        """The mtime of a staged file which the bytes that are read after this call have, and which
        every later write changes, but one past the page cache. Raises OSError."""
        if record.users > 1:  # somebody else has it open, perhaps for writing
            return await settle(self.patient, fd, past_cache=record.past_cache)
        return settled_mtime(fd)

    async def cut(
        self,
        record: OpenInode,
        file: StagedFile | OverlayFile,
        size: int,
        left: Callable[[asyncio.Future[None]], object],
    ) -> None:
        """Give the file of ``record`` another size; raises CacheFull. ``left``: see
        :meth:`Patient.run`."""
        if record.backing_id and isinstance(file, StagedFile):
            with os_errors():
                await self.patient.run(lambda fd: os.ftruncate(fd, size), file.fd, left)
        else:
            await file.truncate(size)

    def get(self, ino: int) -> OpenInode | None:
        return self._inodes.get(ino)

    def counted(self, ino: int, size: int) -> int:
        """What an inode that has ``size`` bytes counts as."""
        record = self._inodes.get(ino)
        return size if record is None else max(size, *record.growing, 0)

    def use(self, ino: int) -> OpenInode:
        """The record of an inode, with one more user."""
        record = self._inodes.get(ino)
        if record is None:
            record = self._inodes[ino] = OpenInode(ino)
        record.users += 1
        return record

    def drop(self, record: OpenInode) -> bool:
        """One user less; True if it was the last and the record is gone."""
        record.users -= 1
        if record.users == 0 and self._inodes.get(record.ino) is record:
            del self._inodes[record.ino]
            return True
        return False

    def __contains__(self, ino: object) -> bool:
        return ino in self._inodes

    def __iter__(self) -> Iterator[OpenInode]:
        return iter(list(self._inodes.values()))

    def __len__(self) -> int:
        return len(self._inodes)

    def is_partial(self, inode: Inode) -> bool:
        """Whether the staged copy of an inode may have to be read together with the object."""
        if not inode.flags & Mark.OVERLAY:
            return False
        record = self._inodes.get(inode.ino)
        file = None if record is None else record.file
        return not (isinstance(file, OverlayFile) and file.is_whole)

    def is_writing(self, ino: int) -> bool:
        record = self._inodes.get(ino)
        return record is not None and record.writers > 0
