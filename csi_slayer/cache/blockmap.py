"""Which blocks of a segment are present, shared by all processes that have it open.

The map file is mapped MAP_SHARED: asking is a memory read, and what one process stores the others
see at once, without a lock. Three rules make that right:

* every word has one meaning alone and is 8 bytes, so it is read and written whole;
* a block's bytes are written before its word;
* writers of one block write the same bytes (one version of one object), so it does not matter who
  comes last.

File: 64-byte header (magic, block size, size, nonce, xxh3_64 of these; then the two words that
change: boot generation and stamp), then for each block the xxh3_64 of its bytes, 0 = absent.
"""

from __future__ import annotations

import mmap
import os
import struct

import xxhash

from csi_slayer.cache.layout import BLOCK
from csi_slayer.cache.oserrors import UNREADABLE, read_through

_FIXED = struct.Struct("<8sIIQQ")
_MAGIC = b"SLYRMAP\1"
_HEADER_WORDS = 8
_CHECK, _GENERATION, _STAMP = 4, 5, 6


def block_count(size: int) -> int:
    """How many blocks a segment of ``size`` bytes has."""
    return -(-size // BLOCK)


def block_hash(data: bytes | memoryview) -> int:
    """A block's word: never 0, which means absent."""
    return xxhash.xxh3_64_intdigest(data) or 1


def map_bytes(size: int) -> int:
    """Length of the map file of a segment of ``size`` bytes."""
    return 8 * (_HEADER_WORDS + block_count(size))


class BlockMap:
    """The mapped words of one segment; create with :meth:`create`, :meth:`open`, :meth:`private`.

    Raises OSError as the system calls do. After :meth:`close` it must not be used.
    """

    __slots__ = ("_memory", "blocks", "words")

    def __init__(self, memory: mmap.mmap, size: int) -> None:
        self.blocks = block_count(size)
        self._memory = memory
        self.words = memoryview(memory).cast("Q")

    @classmethod
    def create(cls, path: str, size: int, nonce: int, generation: int) -> BlockMap:
        """A new file that says that nothing is present."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Written out, not left sparse: a store into the mapping of a full disk is a SIGBUS.
            data = _fixed(size, nonce) + struct.pack("<QQ8x", generation, 0)
            _write_all(fd, data.ljust(map_bytes(size), b"\0"))
            return cls(mmap.mmap(fd, map_bytes(size)), size)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: str, size: int, nonce: int) -> BlockMap | None:
        """The map of a segment; None if there is none, or if it is damaged or another's."""
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOATIME)
            try:
                if os.fstat(fd).st_size != map_bytes(size):
                    return None
                read_through(fd, map_bytes(size))
                memory = mmap.mmap(fd, map_bytes(size))
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in UNREADABLE:
                return None
            raise
        if memory[: _FIXED.size + 8] != _fixed(size, nonce):
            memory.close()
            return None
        return cls(memory, size)

    @classmethod
    def private(cls, size: int) -> BlockMap:
        """A map in this process's memory alone, with nothing present."""
        return cls(mmap.mmap(-1, map_bytes(size)), size)

    @property
    def generation(self) -> int:
        """The boot during which all present blocks were last known good."""
        return self.words[_GENERATION]

    @generation.setter
    def generation(self, value: int) -> None:
        self.words[_GENERATION] = value

    @property
    def stamp(self) -> int:
        """The data file's mtime when the segment was complete, nanoseconds; 0: it is not."""
        stamp = self.words[_STAMP]
        return stamp - 2**64 if stamp >> 63 else stamp

    @stamp.setter
    def stamp(self, value: int) -> None:
        self.words[_STAMP] = value % 2**64  # before 1970 it is negative

    def digest(self) -> int:
        """A number that another state of the map hardly has."""
        return xxhash.xxh3_64_intdigest(self._memory)

    def get(self, block: int) -> int:
        """The block's checksum; 0 if it is absent."""
        return self.words[_HEADER_WORDS + block]

    def set(self, block: int, value: int) -> None:
        """Say that the block's bytes are in the data file; 0: that they are not."""
        self.words[_HEADER_WORDS + block] = value

    def has(self, first: int, end: int) -> bool:
        """Whether all blocks of [first, end) are present."""
        return 0 not in self.words[_HEADER_WORDS + first : _HEADER_WORDS + end]

    def count(self) -> int:
        """How many blocks are present."""
        return self.blocks - self.words[_HEADER_WORDS:].tolist().count(0)

    def close(self) -> None:
        self.words.release()
        self._memory.close()


def _fixed(size: int, nonce: int) -> bytes:
    data = _FIXED.pack(_MAGIC, BLOCK, 0, size, nonce)
    return data + xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


def _write_all(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, memoryview(data)[at:], at)
