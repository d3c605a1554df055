"""The counters of recent use."""

from __future__ import annotations

from csi_slayer.cache import Cache
from csi_slayer.cache.layout import Layout
from csi_slayer.cache.marks import MOST, Marks
from tests.unit.cache.helpers import key_of


def test_counts_are_shared_and_limited(cache: Cache, other: Cache) -> None:
    name = key_of("object").hex
    for number in range(1, 6):
        cache.shared.marks.touch(name)
        assert other.shared.marks.get(name) == min(number, MOST)
    other.shared.marks.set(name, 1)
    assert cache.shared.marks.get(name) == 1


def test_finding_counts_and_a_miss_does_not(cache: Cache) -> None:
    key = key_of("object")
    cache.find(key, 5)
    assert cache.shared.marks.get(key.hex) == 0
    cache.store_small(key, b"hello")
    assert cache.shared.marks.get(key.hex) == 0
    for expected in (1, 2):
        segment = cache.find(key, 5)
        assert segment is not None
        segment.close()
        assert cache.shared.marks.get(key.hex) == expected


def test_a_damaged_file_is_only_a_bad_guess(cache: Cache) -> None:
    cache.shared.layout.marks.write_bytes(b"\xff" * (1 << 22))
    marks = Marks(Layout(cache.shared.layout.root))
    assert marks.get(key_of("object").hex) == MOST
    marks.close()
