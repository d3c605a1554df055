"""A disk that cannot give back what was written: what is mapped is read first, for a page that is
not to be had would end the process, and the next one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import BLOCK, Cache, Governor
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.ledger import Ledger
from csi_slayer.cache.marks import Marks
from csi_slayer.errors import CacheError
from tests.unit.cache.helpers import CAPACITY, content, data_path, fill, key_of, make_complete
from tests.unit.cache.helpers import map_path as map_of

Break = Callable[[Path], None]

SIZE = 3 * BLOCK + 5


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Makes a file unreadable until it is written to, or another one has its name."""
    broken: set[tuple[int, int]] = set()
    pread, pwrite = os.pread, os.pwrite

    def which(fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def read(fd: int, *rest: Any) -> bytes:
        if which(fd) in broken:
            raise OSError(errno.EIO, "Input/output error")
        return pread(fd, *rest)

    def write(fd: int, data: bytes, *rest: Any) -> int:
        if which(fd) in broken and os.fstat(fd).st_size:  # else another one has its number
            assert len(data) % 4096 == 0, "the rest of a page would have to be read"
        broken.discard(which(fd))
        return pwrite(fd, data, *rest)

    monkeypatch.setattr(os, "pread", read)
    monkeypatch.setattr(os, "pwrite", write)
    return lambda path: broken.add((path.stat().st_dev, path.stat().st_ino))


def test_a_segment_whose_map_cannot_be_read_is_fetched_again(cache: Cache, bad: Break) -> None:
    make_complete(cache, "object", SIZE)
    path = map_of(cache, "object")
    bad(path)
    assert cache.find(key_of("object"), SIZE) is None
    assert cache.events.corrupt_segments.value == 1
    assert not path.exists() and not data_path(cache, "object").exists()
    segment = cache.create(key_of("object"), SIZE)
    fill(segment, content("object", SIZE))
    assert segment.complete
    segment.close()


def test_counters_that_cannot_be_read_begin_anew(cache: Cache, bad: Break) -> None:
    name, layout = key_of("object").hex, cache.shared.layout
    cache.shared.marks.touch(name)
    bad(layout.marks)
    marks = Marks(Layout(layout.root))
    assert marks.get(name) == cache.shared.marks.get(name) == 0
    marks.touch(name)
    assert cache.shared.marks.get(name) == 1, "one file for all processes"
    marks.close()


def test_a_ledger_that_cannot_be_read_begins_anew(root: Path, bad: Break) -> None:
    layout = Layout(root)
    ledger = Ledger(layout, CAPACITY, 0)
    ledger.reserve(100_000)
    ledger.close()
    bad(layout.ledger)
    ledger = Ledger(layout, CAPACITY, 0)
    assert ledger.file.used == 0
    ledger.reserve(100_000)
    ledger.counted(300_000, ledger.file.used)
    assert ledger.file.used == 300_000
    ledger.close()


def test_a_disk_that_takes_nothing_either_is_an_error(
    root: Path, bad: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    Cache(root, CAPACITY).close()
    bad(root / "usage")

    def failing(*_arguments: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(CacheError, match=r"usage: Input/output error"):
        Cache(root, CAPACITY)


def test_files_that_the_disk_has_lost_do_not_keep_others_from_eviction(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The governor began anew each second, and evicted nothing."""
    lost = key_of("0").hex
    for number in range(3):
        assert cache.store_small(key_of(f"{number}"), content(f"{number}", 8192))
    stage = cache.staging("v").create()
    os.pwrite(stage.fd, bytes(4096), 0)
    os.close(stage.fd)
    scandir, stat, opener = os.scandir, os.stat, os.open

    def fails(path: Any) -> None:
        if str(path).endswith((lost, stage.id)):
            raise OSError(errno.EIO, "Input/output error")

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self._entry = entry

        def __getattr__(self, name: str) -> Any:
            return getattr(self._entry, name)

        def stat(self, **options: Any) -> os.stat_result:
            fails(self._entry.path)
            return self._entry.stat(**options)

    class Scan:
        def __init__(self, path: Any) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Scan:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[Entry]:
            return map(Entry, self._entries)

    def look(path: Any, **options: Any) -> os.stat_result:
        fails(path)
        return stat(path, **options)

    def open_it(path: Any, *rest: Any, **options: Any) -> int:
        fails(path)
        return opener(path, *rest, **options)

    monkeypatch.setattr(os, "scandir", Scan)
    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(os, "open", open_it)
    governor = Governor(cache)
    assert governor.take_over()
    governor.look()
    assert governor.evict(CAPACITY).segments == 2
    monkeypatch.undo()
    governor.step_down()
    assert cache.contains(key_of("0")) and not cache.contains(key_of("1"))
