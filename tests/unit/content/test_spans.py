"""Segments of large files leave the cache room to move."""

from __future__ import annotations

import pytest

from csi_slayer.cache import SMALL
from csi_slayer.content.clean import MOST_OPEN
from csi_slayer.content.spans import Spans

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize("capacity", [MIB, 64 * MIB, 256 * MIB, 10 * GIB, 100 * GIB, 4096 * GIB])
def test_what_fits_is_one_segment_and_what_does_not_several(capacity: int) -> None:
    spans = Spans(4 * GIB, capacity)
    assert spans.most == max(SMALL, min(4 * GIB, capacity // 4))
    assert spans.of(spans.most) == spans.most
    assert spans.of(spans.most + 1) <= spans.most
    assert spans.of(spans.most + 1) % SMALL == 0


@pytest.mark.parametrize("capacity", [512 * MIB, 10 * GIB, 20 * GIB, 100 * GIB])
def test_what_is_open_of_one_file_is_no_more_than_a_quarter_of_the_cache(capacity: int) -> None:
    assert MOST_OPEN * Spans(4 * GIB, capacity).of(1 << 50) <= capacity // 4


def test_a_capacity_that_follows_the_free_space_leaves_the_pieces_as_they_are() -> None:
    """Those of another size would be fetched again."""
    parts = {Spans(4 * GIB, capacity * MIB).of(1 << 50) for capacity in range(8192, 16384, 100)}
    assert parts == {256 * MIB}
