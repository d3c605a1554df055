"""Writes whose outcome is unknown are remembered by key, within limits."""

from __future__ import annotations

from csi_slayer.store.write_token import WRITE_TOKEN, LostWrites, choose_token


def test_tokens_are_new_unless_given() -> None:
    assert choose_token(None) != choose_token({})
    assert choose_token({WRITE_TOKEN: "mine", "x": "y"}) == "mine"


def test_lost_writes_are_known_until_settled() -> None:
    lost = LostWrites()
    assert not lost.knows("key")
    lost.add("key", "one")
    lost.add("key", "two")
    assert lost.knows("key")
    assert lost.holds("key", "one")
    assert lost.holds("key", "two")
    assert not lost.holds("key", "three")
    assert not lost.holds("key", None)
    assert not lost.holds("other", "one")
    lost.settle("key")
    assert not lost.holds("key", "one")


def test_memory_is_bounded() -> None:
    lost = LostWrites()
    for number in range(20):
        lost.add("key", str(number))
    assert not lost.holds("key", "0")
    assert lost.holds("key", "19")
    for number in range(10_000):
        lost.add(f"key{number}", "x")
    assert not lost.knows("key")
    assert lost.knows("key9999")
