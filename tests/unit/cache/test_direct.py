"""When fetched bytes go around the page cache, and that they arrive either way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from csi_slayer.cache import BLOCK, Cache
from csi_slayer.cache import direct as direct_module
from csi_slayer.cache.direct import Direct, DirectMode
from csi_slayer.cache.fresh import PIECE
from csi_slayer.cache.segment import SegmentSink
from tests.unit.cache.helpers import content, key_of

CHEAP, DEAR, SLOW = 0.1e-3, 1e-3, 20e-3


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(direct_module.time, "monotonic", lambda: self.now)


def pieces(direct: Direct, count: int, cpu: float, wall: float) -> None:
    for _ in range(count):
        direct.note(direct.now, cpu, wall)


def tried(direct: Direct, cpu: float, wall: float) -> None:
    """The page cache, until it is known what it costs."""
    for _ in range(32):
        if not direct.now:
            direct.note(False, cpu, wall)


def test_a_cheap_page_cache_is_used() -> None:
    direct = Direct()
    pieces(direct, 1000, CHEAP, CHEAP)
    assert not direct.now
    assert not direct.dear


@pytest.mark.parametrize(("cpu", "wall"), [(DEAR, DEAR), (CHEAP, SLOW)], ids=["cpu", "throttled"])
def test_a_dear_page_cache_is_avoided(cpu: float, wall: float) -> None:
    direct = Direct()
    pieces(direct, 32, cpu, wall)
    assert direct.now


def test_the_page_cache_is_tried_again() -> None:
    direct = Direct()
    tried(direct, DEAR, DEAR)
    pieces(direct, 511, CHEAP, DEAR)
    assert direct.now
    pieces(direct, 1, CHEAP, DEAR)
    assert not direct.now
    tried(direct, DEAR, DEAR)
    assert direct.now


def until_tried(direct: Direct) -> int:
    count = 0
    while direct.now:
        pieces(direct, 1, CHEAP, DEAR)
        count += 1
    return count


def test_the_more_often_it_was_dear_the_later_it_is_tried() -> None:
    direct = Direct()
    gaps = []
    for _ in range(8):
        tried(direct, DEAR, DEAR)
        gaps.append(until_tried(direct))
    assert gaps == [512, 1024, 2048, 4096, 8192, 16384, 16384, 16384]
    pieces(direct, 32, CHEAP, CHEAP)
    assert not direct.dear
    tried(direct, DEAR, DEAR)
    assert until_tried(direct) == 512


@pytest.mark.parametrize(("cpu", "wall"), [(5e-3, 5e-3), (CHEAP, 0.1)], ids=["cpu", "throttled"])
def test_a_trial_that_costs_much_is_short(cpu: float, wall: float) -> None:
    direct = Direct()
    tried(direct, CHEAP, CHEAP)
    pieces(direct, 2, cpu, wall)
    assert direct.now


def test_a_disk_that_is_slow_either_way_is_written_directly() -> None:
    direct = Direct()
    tried(direct, DEAR, 2 * SLOW)
    pieces(direct, 32, CHEAP, SLOW)
    assert direct.now
    pieces(direct, 32, CHEAP, 3 * SLOW)
    assert not direct.now


def test_a_slow_disk_gets_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    direct = Direct()
    tried(direct, DEAR, DEAR)
    pieces(direct, 32, CHEAP, SLOW)
    assert not direct.now
    pieces(direct, 320, DEAR, DEAR)
    assert not direct.now
    assert direct.dear
    pieces(direct, 32, CHEAP, CHEAP)
    assert not direct.dear
    clock.now += 31
    pieces(direct, 32, DEAR, DEAR)
    assert direct.now


def test_late_news_of_the_other_way_count_for_nothing() -> None:
    direct = Direct()
    for _ in range(100):
        direct.note(True, DEAR, SLOW)
    assert not direct.now


@pytest.mark.parametrize("mode", ["always", "never"])
def test_who_configures_decides(mode: DirectMode) -> None:
    direct = Direct(mode)
    pieces(direct, 100, DEAR, SLOW)
    pieces(direct, 600, CHEAP, CHEAP)
    assert direct.now is direct.dear is (mode == "always")


def send(sink: SegmentSink, data: bytes) -> int:
    """As a transfer does; how many pieces were put into the sink's own memory."""
    own = 0
    for offset in range(0, len(data), PIECE):
        part = data[offset : offset + PIECE]
        view = sink.room(len(part))
        if view is None:
            view = memoryview(bytearray(part))
        else:
            own += 1
            view[:] = part
        sink.write(offset, view)
    return own


@pytest.mark.parametrize("tail", [0, 4096, 4097, BLOCK + 1])
@pytest.mark.parametrize("mode", ["always", "never"])
def test_what_is_fetched_is_on_the_disk_and_in_memory(
    tmp_path: Path, mode: DirectMode, tail: int
) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30, direct=mode)
    data = content("object", 3 * PIECE + tail)
    segment = cache.create(key_of("object"), len(data))
    told: list[tuple[int, int]] = []
    own = send(segment.sink(lambda *piece: told.append(piece), end=len(data)), data)
    assert own == (len(range(0, len(data), PIECE)) if mode == "always" else 0)
    assert {offset for offset, _ in told} == set(range(0, len(data), PIECE))
    assert segment.complete
    assert segment.available(0, len(data))
    assert os.pread(segment.fd, len(data) + 1, 0) == data
    claimed = segment.claim(0, len(data))
    assert (claimed is not None) is (mode == "always")
    if claimed is not None:
        assert b"".join(claimed.views) == data
    assert segment.claim(0, len(data)) is None
    segment.close()
    # The checksums were taken of what is there.
    opened = cache.open_named(key_of("object").hex)
    assert opened is not None
    opened.unpin()
    cache.close()


@pytest.mark.parametrize("mode", ["always", "auto"])
def test_what_is_read_next_goes_through_the_page_cache_be_it_dear(
    tmp_path: Path, mode: DirectMode
) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30, direct=mode)
    cache.shared.direct.now = True
    data = content("object", 2 * PIECE)
    segment = cache.create(key_of("object"), len(data))
    own = send(segment.sink(lambda *_piece: None, end=len(data), cached=True), data)
    assert own == (2 if mode == "always" else 0)
    assert os.pread(segment.fd, len(data), 0) == data
    segment.close()
    cache.close()


def test_it_is_available_before_it_is_present(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30, direct="always")
    segment = cache.create(key_of("object"), 2 * PIECE)
    seen: list[tuple[bool, bool]] = []

    def look(offset: int, length: int) -> None:
        seen.append((segment.available(offset, offset + length), segment.present(offset, length)))

    send(segment.sink(look, end=segment.size), content("object", PIECE))
    assert seen == [(True, False), (True, True)]
    assert not segment.available(0, PIECE + 1)
    segment.close()
    cache.close()


def test_a_file_system_without_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refuse(path: str, flags: int, *args: int, **kwargs: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *args, **kwargs)

    cache = Cache(tmp_path / "cache", 1 << 30, direct="always")
    data = content("object", 2 * PIECE)
    segment = cache.create(key_of("object"), len(data))
    monkeypatch.setattr("csi_slayer.cache.opened.os.open", refuse)
    assert send(segment.sink(lambda _offset, _length: None, end=segment.size), data) == 1
    monkeypatch.undo()
    assert os.pread(segment.fd, len(data), 0) == data
    assert not cache.shared.direct.now
    segment.close()
    cache.close()


def test_a_closed_segment_leaves_no_descriptor(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 1 << 30, direct="always")
    before = len(os.listdir("/proc/self/fd"))
    segment = cache.create(key_of("object"), PIECE)
    send(segment.sink(lambda _offset, _length: None, end=segment.size), content("object", PIECE))
    segment.close()
    assert len(os.listdir("/proc/self/fd")) == before
    cache.close()
