"""Which inodes' pages the kernel is to drop."""

from __future__ import annotations

from csi_slayer.vfs.stale import StalePages


def test_what_was_changed_is_dropped_once() -> None:
    stale = StalePages()
    stale.add(5)
    assert [stale.take(5), stale.take(5), stale.take(6)] == [True, False, False]


def test_what_the_kernel_has_forgotten_is_not_remembered() -> None:
    stale = StalePages(kept=1)
    for ino in range(10):
        stale.add(ino)
        stale.forgotten(ino)
    assert not stale.take(3)


def test_of_too_many_nothing_is_believed_any_more() -> None:
    stale = StalePages(kept=2)
    for ino in (1, 2, 3):
        stale.add(ino)
    assert all(stale.take(ino) for ino in (1, 2, 3, 4))


def test_of_each_change_who_appends_is_told_once() -> None:
    stale = StalePages()
    assert not stale.tell(5)
    for _ in range(2):
        stale.add(5)
        assert [stale.tell(5), stale.tell(5)] == [True, False]
    assert stale.take(5)
    assert not stale.tell(5)
