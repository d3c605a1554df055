"""One process serves a volume; the lock lasts as long as whoever inherited it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from csi_slayer.node.lock import Busy, is_locked, lock_volume


def test_a_volume_that_was_never_served_has_no_lock(tmp_path: Path) -> None:
    assert is_locked(str(tmp_path)) is None


def test_only_one_may_serve(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    lock = lock_volume(state)
    assert is_locked(state) is True
    with pytest.raises(Busy):
        lock_volume(state)
    os.close(lock)
    assert is_locked(state) is False
    os.close(lock_volume(state))


def test_a_child_that_inherited_it_keeps_it(tmp_path: Path) -> None:
    """A worker whose supervisor was killed still serves the volume."""
    state = str(tmp_path)
    lock = lock_volume(state)
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
    )
    os.close(lock)
    assert is_locked(state) is True
    child.communicate(b"\n", timeout=30)
    assert is_locked(state) is False


def test_asking_takes_nothing(tmp_path: Path) -> None:
    os.close(lock_volume(str(tmp_path)))
    assert is_locked(str(tmp_path)) is False
    assert is_locked(str(tmp_path)) is False
    os.close(lock_volume(str(tmp_path)))
