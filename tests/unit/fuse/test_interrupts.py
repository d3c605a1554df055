"""Whether a caller that got a signal is about to end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.fuse.interrupts import is_dying


def bit(number: int) -> int:
    return 1 << (number - 1)


def status(proc: Path, **masks: int) -> None:
    names = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
    (proc / "7").mkdir(exist_ok=True)
    lines = ["Name:\tcat", "State:\tS (sleeping)", "SigQ:\t0/99", "Seccomp:\t0"]
    lines += [f"{name}:\t{masks.get(name, 0):016x}" for name in names]
    (proc / "7/status").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("masks", "dying"),
    [
        ({}, False),
        ({"SigPnd": bit(9)}, True),
        ({"ShdPnd": bit(9)}, True),
        ({"ShdPnd": bit(15)}, True),
        ({"ShdPnd": bit(2), "SigCgt": bit(2)}, False),
        ({"ShdPnd": bit(2), "SigIgn": bit(2)}, False),
        ({"ShdPnd": bit(2), "SigBlk": bit(2)}, False),
        ({"ShdPnd": bit(17) | bit(23) | bit(28)}, False),
        ({"ShdPnd": bit(14) | bit(15), "SigCgt": bit(14)}, True),
    ],
)
def test_a_pending_signal_that_nobody_handles_ends_a_process(
    tmp_path: Path, masks: dict[str, int], dying: bool
) -> None:
    status(tmp_path, **masks)
    assert is_dying(7, tmp_path) is dying


def test_who_cannot_be_seen_counts_as_dying(tmp_path: Path) -> None:
    assert is_dying(7, tmp_path)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("Name:\tcat\n")
    assert is_dying(7, tmp_path)


def test_this_process_lives() -> None:
    assert not is_dying(os.getpid())
