"""File handles that outlive the worker: a small memory-mapped table.

Which inodes are open, how, and with which backing id is the kernel's state; a successor must know
it, or it would answer an open in a way the kernel refuses. Each open has a slot, written before
the reply, in a file that the page cache keeps when the worker dies. It need not survive a reboot:
then nothing is open.

A handle is ``generation << 24 | slot``; a release that is repeated finds another generation in the
slot, or none, and does nothing. An open that is repeated finds the slot by the request's id.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from csi_slayer.cache.oserrors import read_through
from csi_slayer.content.opened import UNKNOWN_FILE, IoMode, LocalFile
from csi_slayer.content.staged import os_errors

# request, handle, inode, version, flags, mode, backing id, used, backing file (device, inode)
_SLOT = struct.Struct("<QQQQIIiIQQ")
_SIZE = 64
_VERSION_AT = 24
_USED_AT = 44
_SLOT_BITS = 24
_SLOT_MASK = (1 << _SLOT_BITS) - 1
_FIRST = 1024
_MODES = frozenset(IoMode)


class Handle(NamedTuple):
    """One open file. ``version`` is a hash of the etag that the handle reads, 0 for staged."""

    request: int
    fh: int
    ino: int
    version: int
    flags: int
    mode: IoMode
    backing_id: int
    backing_file: LocalFile

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class HandleTable:
    """The table in the file ``path``; at most 16 million handles. Raises FsError, CacheFull."""

    def __init__(self, path: Path) -> None:
        with os_errors():
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = max(os.fstat(self._fd).st_size, _FIRST * _SIZE)
        self._allocate(size)
        with os_errors():
            read_through(self._fd, size)
        self._map = mmap.mmap(self._fd, size)
        self._handles: dict[int, Handle] = {}
        self._free: list[int] = []
        self.released: set[int] = set()
        """Backing ids of handles that were forgotten: perhaps just before a worker's death, and it
        did not give the id back."""
        self._generation = 1
        for slot in range(size // _SIZE - 1, -1, -1):
            row = _SLOT.unpack_from(self._map, slot * _SIZE)
            self._generation = max(self._generation, (row[1] >> _SLOT_BITS) + 1)
            if row[7] and row[5] in _MODES and row[1] & _SLOT_MASK == slot:
                request, fh, ino, version, flags, mode, backing_id, _used, dev, file = row
                handle = Handle(
                    request, fh, ino, version, flags, IoMode(mode), backing_id, (dev, file)
                )
                self._handles[handle.fh] = handle
            else:  # free, or damaged: nobody can have got such a handle
                self._free.append(slot)
                if row[6] > 0:
                    self.released.add(row[6])
        self.released -= {handle.backing_id for handle in self._handles.values()}

    def fileno(self) -> int:
        return self._fd

    def __iter__(self) -> Iterator[Handle]:
        return iter(list(self._handles.values()))

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, fh: int) -> Handle | None:
        return self._handles.get(fh)

    def versions(self, ino: int) -> set[int]:
        """Which versions of an inode are open. Looks at every handle."""
        return {handle.version for handle in self._handles.values() if handle.ino == ino}

    def by_request(self, request: int) -> Handle | None:
        """The handle that a resent open or create had got already."""
        return next((h for h in self._handles.values() if h.request == request), None)

    def add(
        self,
        request: int,
        ino: int,
        version: int,
        flags: int,
        mode: IoMode,
        backing_id: int,
        backing_file: LocalFile = UNKNOWN_FILE,
    ) -> Handle:
        """Record an open before it is answered."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._generation += 1
        fh = (self._generation << _SLOT_BITS | slot) & (2**64 - 1)
        handle = Handle(request, fh, ino, version, flags, mode, backing_id, backing_file)
        at = slot * _SIZE
        # The mark of use is written last: a half-written slot is a free one.
        _SLOT.pack_into(
            self._map, at, request, fh, ino, version, flags & 0xFFFFFFFF, mode, backing_id, 0,
            *backing_file,
        )  # fmt: skip
        self._map[at + _USED_AT] = 1
        self._handles[fh] = handle
        return handle

    def remove(self, fh: int) -> Handle | None:
        """Forget a handle; None if it was forgotten before."""
        handle = self._handles.pop(fh, None)
        if handle is not None:
            slot = fh & _SLOT_MASK
            self._map[slot * _SIZE + _USED_AT] = 0
            self._free.append(slot)
        return handle

    def changed_version(self, ino: int, old: int, new: int) -> None:
        """The same bytes are now another version: true for the handles that read them."""
        for handle in self:
            if handle.ino == ino and handle.version == old:
                at = (handle.fh & _SLOT_MASK) * _SIZE
                struct.pack_into("<Q", self._map, at + _VERSION_AT, new)
                self._handles[handle.fh] = handle._replace(version=new)

    def clear(self) -> None:
        """A new kernel connection: nothing is open."""
        for fh in list(self._handles):
            self.remove(fh)

    def _allocate(self, size: int) -> None:
        """Have the blocks before the memory is written to: on a full disk that would kill us.

        Raises CacheFull.
        """
        with os_errors():
            os.posix_fallocate(self._fd, 0, size)

    def _grow(self) -> None:
        old = len(self._map) // _SIZE
        self._allocate(2 * old * _SIZE)
        self._map.resize(2 * old * _SIZE)
        self._free.extend(range(2 * old - 1, old - 1, -1))

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)
