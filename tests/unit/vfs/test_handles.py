"""The table of handles: what a successor believes of it."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from csi_slayer.content.opened import IoMode
from csi_slayer.errors import FsError
from csi_slayer.vfs.handles import HandleTable


def test_handles_outlive_the_table(tmp_path: Path) -> None:
    table = HandleTable(tmp_path / "handles")
    handle = table.add(2, 7, 1234, os.O_RDWR, next(iter(IoMode)), 3)
    table.close()
    table = HandleTable(tmp_path / "handles")
    assert list(table) == [handle] and table.by_request(2) == handle
    table.close()


def test_a_table_that_cannot_be_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped unread it would end the worker, and the one that comes after it."""

    def unreadable(*_args: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    HandleTable(tmp_path / "handles").close()
    monkeypatch.setattr(os, "pread", unreadable)
    with pytest.raises(FsError):
        HandleTable(tmp_path / "handles")


def test_a_table_that_cannot_be_made_is_an_error_of_ours(tmp_path: Path) -> None:
    """The worker says it in a line, not in a traceback."""
    with pytest.raises(FsError, match="No such file or directory"):
        HandleTable(tmp_path / "gone" / "handles")


def test_a_damaged_table_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "handles"
    path.write_bytes(random.Random(1).randbytes(1 << 16))
    table = HandleTable(path)
    assert not len(table)
    mode = next(iter(IoMode))
    handles = [table.add(2 * n, n, n, os.O_RDONLY, mode, 0) for n in range(1, 1501)]
    assert len({handle.fh for handle in handles}) == 1500
    table.close()
    table = HandleTable(path)
    assert sorted(table) == sorted(handles)
    table.close()
