"""Damage, reboots and crashes, done to a cache directory as the world would do them."""

from __future__ import annotations

import os
import random
from pathlib import Path

from csi_slayer.cache import BLOCK, Cache, Segment, SegmentKey, Stage
from csi_slayer.cache.header import MAPPED, Header, read_header
from csi_slayer.cache.ledger import Ledger

CAPACITY = 64 << 20


def key_of(name: str) -> SegmentKey:
    return SegmentKey.of("tenant", name, '"etag"', 0)


def content(name: str, size: int) -> bytes:
    """The bytes of the one version of the object ``name``."""
    return random.Random(name).randbytes(size)


def blocks_of(size: int) -> range:
    """Offsets of all blocks."""
    return range(0, size, BLOCK)


def fill(segment: Segment, data: bytes) -> None:
    for offset in blocks_of(len(data)):
        segment.write_block(offset, data[offset : offset + BLOCK])


def make_complete(cache: Cache, name: str, size: int) -> None:
    """A complete segment with a block map, closed again."""
    segment = cache.create(key_of(name), size)
    fill(segment, content(name, size))
    assert segment.complete
    segment.close()


def staged(cache: Cache, size: int, name: str = "object") -> Stage:
    """A staged file with the content of an object, closed."""
    stage = cache.staging("volume").create()
    os.write(stage.fd, content(name, size))
    os.close(stage.fd)
    return stage


def data_path(cache: Cache, name: str) -> Path:
    return Path(cache.shared.layout.data(key_of(name).hex))


def map_path(cache: Cache, name: str) -> Path:
    found = list(data_path(cache, name).parent.glob(f"{key_of(name).hex}-*.map"))
    assert len(found) == 1
    return found[0]


def header_of(cache: Cache, name: str) -> Header | None:
    path = data_path(cache, name)
    return read_header(str(path), cache.shared.layout.xattr) if path.exists() else None


def change_header(cache: Cache, name: str, **values: int) -> None:
    header = header_of(cache, name)
    assert header is not None
    fd = os.open(data_path(cache, name), os.O_RDONLY)
    header._replace(**values).write(fd, cache.shared.layout.xattr)
    os.close(fd)


def overwrite(path: Path, offset: int, data: bytes, *, keep_mtime: bool = False) -> None:
    """Scribble on a file of the cache."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    if keep_mtime:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path, offset: int, *, keep_mtime: bool = False) -> None:
    """Change one byte of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        byte = file.read(1)
    overwrite(path, offset, bytes([byte[0] ^ 0xFF]), keep_mtime=keep_mtime)


def reboot(cache: Cache) -> None:
    """Make everything on the disk look as if it was written before the machine was started."""
    layout = cache.shared.layout
    for shard in layout.shards():
        for name in os.listdir(shard):
            path = Path(shard) / name
            if name.endswith(".map"):
                overwrite(path, 40, b"\x01".ljust(8, b"\0"), keep_mtime=True)
                continue
            header = read_header(str(path), layout.xattr)
            if header is not None and header.kind != MAPPED:
                fd = os.open(path, os.O_RDONLY)
                header._replace(generation=1).write(fd, layout.xattr)
                os.close(fd)


def crash(cache: Cache) -> None:
    """End a cache as the death of its process would: the kernel closes files, nobody else acts."""
    for opened in cache.shared.opened.values():
        os.close(opened.fd)
    cache.shared.opened.clear()
    die(cache.shared.ledger)


def die(ledger: Ledger) -> None:
    """What the kernel does to a ledger when its process ends."""
    ledger.file._words.release()
    ledger.file._memory.close()
    os.close(ledger.file._fd)


def disk_bytes(cache: Cache) -> int:
    """What the segments really use."""
    total = 0
    for shard in cache.shared.layout.shards():
        for entry in os.scandir(shard):
            total += entry.stat().st_blocks * 512
    return total
