"""Names of segments."""

from __future__ import annotations

from itertools import product

from csi_slayer.cache import SegmentKey


def test_is_32_hex_digits_and_stable() -> None:
    key = SegmentKey.of("tenant", "a/b", '"etag"', 3)
    assert key == SegmentKey.of("tenant", "a/b", '"etag"', 3)
    assert len(key.hex) == 32
    assert key.raw.hex() == key.hex


def test_every_field_counts_and_none_runs_into_the_next() -> None:
    fields = ["", "a", "b", "ab", "a/b", "\0"]
    keys = {
        SegmentKey.of(tenant, key, etag, span)
        for tenant, key, etag, span in product(fields, fields, fields, [0, 1, 2**40])
    }
    assert len(keys) == len(fields) ** 3 * 3


def test_any_object_key_will_do() -> None:
    assert SegmentKey.of("t", "\udcff\ud800", "e") != SegmentKey.of("t", "\udcff", "e")
