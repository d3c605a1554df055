"""What is asked of staged copies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from csi_slayer.content.objects import Objects
from csi_slayer.content.opened import OpenInodes
from csi_slayer.errors import FsError


def stat_below(directory: Path) -> Any:
    nothing: Any = None
    staging: Any = SimpleNamespace(directory=directory)
    objects = Objects(
        nothing, nothing, staging, nothing, nothing, OpenInodes(), nothing, nothing
    )  # fmt: skip
    inode: Any = SimpleNamespace(ino=7, stage="stage")
    return objects.staged_stat(inode)


def test_a_staged_copy_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert stat_below(tmp_path) is None
    (tmp_path / "stage").touch()
    assert stat_below(tmp_path).st_size == 0


def test_one_that_cannot_be_looked_at_is_an_error_that_everybody_expects(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FsError):
        stat_below(tmp_path / "file")
