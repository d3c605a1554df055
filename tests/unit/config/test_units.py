"""Sizes, durations and modes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_slayer.config.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_mode,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("10GiB", 10 * 2**30),
        ("10Gi", 10 * 2**30),
        ("500MB", 500 * 10**6),
        ("500m", 500 * 10**6),
        (" 1.5 KiB ", 1536),
        ("7b", 7),
        ("9007199254740993", 9007199254740993),
        ("8PiB", 2**53),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "GiB",
        "-1",
        -1,
        "10 XiB",
        "1i",
        "1e3",
        True,
        None,
        1.5,
        "１",
        "8EiB",
        "8192PiB",
        2**63,
        "9" * 5000,
    ],
)
def test_bad_sizes(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a size such as"):
        parse_size(bad)


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (10, 10.0),
        (0.5, 0.5),
        ("30", 30.0),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("2d", 172800.0),
        ("1.5 h", 5400.0),
    ],
)
def test_durations(text: object, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "s",
        "-5s",
        -1,
        "5 minutes",
        "1h and",
        True,
        None,
        float("inf"),
        float("nan"),
        "9" * 400,
        "3661d",
        1e300,
    ],
)
def test_bad_durations(bad: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(bad)


@given(st.integers(min_value=0, max_value=10**6))
def test_a_formatted_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(float(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "expected"), [("0644", 0o644), ("644", 0o644), ("0o755", 0o755), ("1777", 0o1777)]
)
def test_modes(text: str, expected: int) -> None:
    assert parse_mode(text) == expected


@pytest.mark.parametrize("bad", [644, 0o644, "0888", "rw-r--r--", "", "77", "77777", None])
def test_bad_modes(bad: object) -> None:
    with pytest.raises(ValueError, match="quoted octal string"):
        parse_mode(bad)
