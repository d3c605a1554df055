"""One bit for each inode."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.vfs.marks import Marks

INOS = st.integers(0, 60000)


@given(st.sets(INOS), st.lists(INOS), st.integers(0, 500), st.lists(INOS))
def test_it_is_a_set_of_numbers(
    added: set[int], discarded: list[int], known: int, asked: list[int]
) -> None:
    marks = Marks(known, most=50000)
    for ino in added:
        marks.add(ino)
    for ino in [*discarded, *list(added)[::3]]:
        marks.discard(ino)
        added = added - {ino}
    for ino in [*asked, *added, *discarded, *(ino + 1 for ino in added)]:
        outside = not known <= ino < 50000
        assert (ino in marks) == (outside or ino in added)
