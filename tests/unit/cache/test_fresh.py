"""Pieces in memory: given out once, never under two owners, bounded."""

from __future__ import annotations

import threading

import pytest

from csi_slayer.cache import fresh as fresh_module
from csi_slayer.cache.fresh import IDLE, PATIENCE, PIECE, Claimed, Fresh
from csi_slayer.cache.layout import BLOCK


def kept(fresh: Fresh, owner: int, offset: int, data: bytes) -> None:
    piece = fresh.take()
    assert piece is not None
    piece.memory[: len(data)] = data
    fresh.keep(owner, offset, piece, len(data))


def text(claimed: Claimed | None) -> bytes:
    assert claimed is not None
    return b"".join(claimed.views)


def pattern(number: int, size: int = PIECE) -> bytes:
    return bytes([number % 251]) * size


def test_what_is_kept_is_claimed_once() -> None:
    fresh = Fresh()
    owner = fresh.new_owner()
    kept(fresh, owner, PIECE, pattern(1))
    assert fresh.has(owner, PIECE, 2 * PIECE)
    assert text(fresh.claim(owner, PIECE, 2 * PIECE)) == pattern(1)
    assert not fresh.has(owner, PIECE, 2 * PIECE)
    assert fresh.claim(owner, PIECE, 2 * PIECE) is None


def test_a_range_over_several_pieces() -> None:
    fresh = Fresh()
    owner = fresh.new_owner()
    for number in range(3):
        kept(fresh, owner, number * PIECE, pattern(number))
    claimed = fresh.claim(owner, BLOCK + 5, 2 * PIECE + 7)
    assert text(claimed) == pattern(0, PIECE - BLOCK - 5) + pattern(1) + pattern(2, 7)
    assert claimed is not None and len(claimed.views) == 3
    # What was not asked for up to its end is still there, and the block before.
    assert text(fresh.claim(owner, 0, BLOCK)) == pattern(0, BLOCK)
    assert text(fresh.claim(owner, 2 * PIECE + 7, 3 * PIECE)) == pattern(2, PIECE - 7)


def test_all_or_nothing() -> None:
    fresh = Fresh()
    owner = fresh.new_owner()
    kept(fresh, owner, 0, pattern(1))
    assert fresh.claim(owner, 0, PIECE + 1) is None
    assert text(fresh.claim(owner, 0, PIECE)) == pattern(1)


def test_the_last_piece_of_an_object_is_short() -> None:
    fresh = Fresh()
    owner = fresh.new_owner()
    kept(fresh, owner, 0, pattern(7, BLOCK + 10))
    assert text(fresh.claim(owner, 0, BLOCK + 10)) == pattern(7, BLOCK + 10)


def test_owners_do_not_see_each_other() -> None:
    fresh = Fresh()
    one, other = fresh.new_owner(), fresh.new_owner()
    kept(fresh, one, 0, pattern(1))
    kept(fresh, other, 0, pattern(2))
    fresh.forget(one)
    assert fresh.claim(one, 0, PIECE) is None
    assert text(fresh.claim(other, 0, PIECE)) == pattern(2)


def test_memory_is_bounded_and_not_used_again_while_somebody_has_it() -> None:
    fresh = Fresh(most=3)
    owner = fresh.new_owner()
    for number in range(3):
        kept(fresh, owner, number * PIECE, pattern(number))
    assert fresh.take() is None
    claimed = fresh.claim(owner, 0, PIECE)
    assert fresh.take() is None  # the claim still refers to it
    assert text(claimed) == pattern(0)
    del claimed
    again = fresh.take()
    assert again is not None
    again.memory[:] = pattern(9)
    assert text(fresh.claim(owner, PIECE, 3 * PIECE)) == pattern(1) + pattern(2)


def test_what_nobody_comes_for_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(fresh_module.time, "monotonic", lambda: now)
    fresh = Fresh(most=2)
    gone, busy = fresh.new_owner(), fresh.new_owner()
    kept(fresh, gone, 0, pattern(1))
    now += PATIENCE / 2
    kept(fresh, busy, 0, pattern(2))
    assert fresh.take() is None
    now += PATIENCE / 2
    kept(fresh, busy, PIECE, pattern(3))
    assert fresh.claim(gone, 0, PIECE) is None
    assert text(fresh.claim(busy, 0, 2 * PIECE)) == pattern(2) + pattern(3)


def test_memory_is_given_back_when_nobody_reads() -> None:
    fresh = Fresh(most=4 * IDLE)
    owner = fresh.new_owner()
    for number in range(4 * IDLE):
        kept(fresh, owner, number * PIECE, b"x")
    assert fresh.made == 4 * IDLE
    fresh.forget(owner)
    assert fresh.made == IDLE
    for number in range(4 * IDLE):
        kept(fresh, owner, number * PIECE, b"x")


def test_a_reader_never_sees_bytes_of_another_place() -> None:
    """Several readers claim while their transfers fill; the pieces are too few for all."""
    fresh = Fresh(most=6)
    wrong: list[tuple[int, int]] = []
    served = [0]

    def read(number: int) -> None:
        owner = fresh.new_owner()
        for index in range(300):
            seed = number * 1000 + index
            piece = fresh.take()
            if piece is None:
                continue
            piece.memory[:16] = seed.to_bytes(16, "big")
            piece.memory[BLOCK : BLOCK + 16] = seed.to_bytes(16, "big")
            fresh.keep(owner, index * PIECE, piece, 2 * BLOCK)
            del piece
            claimed = fresh.claim(owner, index * PIECE, index * PIECE + 2 * BLOCK)
            if claimed is None:
                continue
            (view,) = claimed.views
            served[0] += 1  # one more or less does not matter
            for start in (0, BLOCK):
                if int.from_bytes(view[start : start + 16], "big") != seed:
                    wrong.append((number, index))
        fresh.forget(owner)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert served[0] > 100
