"""Calls that meet in every way: see :mod:`tests.unit.vfs.storm`. To look for more than these seeds
find: ``python -m tests.unit.vfs.test_storm FIRST COUNT``."""

from __future__ import annotations

import logging
import sys

import pytest
import structlog

from csi_slayer.content import upload
from tests.unit.vfs.storm import Storm

SEEDS = 150
ONCE_FAILED = (396, 949, 950, 951, 1014, 1048, 1639, 1895, 1981, 2171, 2419, 2512, 13981)


@pytest.fixture
def small_puts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Larger files are sent from their descriptors, and in parts."""
    monkeypatch.setattr(upload, "SINGLE", 4096)


@pytest.mark.usefixtures("small_puts")
@pytest.mark.parametrize("first", [*range(0, SEEDS, 10)])
def test_storms(first: int) -> None:
    for seed in range(first, first + 10):
        try:
            Storm(seed).run()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.usefixtures("small_puts")
@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_storms_that_once_found_something(seed: int) -> None:
    Storm(seed).run()


def main(first: int, count: int) -> int:
    """Print the seeds that fail; returns how many."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    upload.SINGLE = 4096
    failed = 0
    for seed in range(first, first + count):
        try:
            Storm(seed).run()
        except Exception as error:
            failed += 1
            print(f"{seed}: {type(error).__name__}: {error}", flush=True)
    print(f"{failed} of {count} failed")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]), int(sys.argv[2]))))
