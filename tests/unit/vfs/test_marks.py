"""One bit for each inode."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.vfs.marks import Marks


@given(st.sets(st.integers(0, 60000)), st.integers(0, 500), st.lists(st.integers(0, 60000)))
def test_it_is_a_set_of_numbers(added: set[int], known: int, asked: list[int]) -> None:
    marks = Marks(known, most=50000)
    for ino in added:
        marks.add(ino)
    for ino in [*asked, *added, *(ino + 1 for ino in added)]:
        outside = not known <= ino < 50000
        assert (ino in marks) == (outside or ino in added)
