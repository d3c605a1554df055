"""A log file that does not grow without end."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from csi_slayer.observability import log_file
from csi_slayer.observability.log_file import LogFile


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(log_file, "LARGEST", 10)
    return tmp_path / "a.log"


def older(path: Path) -> Path:
    return path.with_name("a.log.1")


def full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_full_file_begins_anew_and_one_older_part_is_kept(path: Path) -> None:
    file = LogFile.open(path)
    for number in range(7):
        file.write(b"line %d\n" % number)
    file.close()
    assert path.read_bytes() == b"line 6\n"
    assert older(path).read_bytes() == b"line 4\nline 5\n"
    assert older(path).stat().st_mode & 0o777 == 0o600
    assert sorted(path.parent.iterdir()) == [path, older(path)]


def test_others_go_on_in_the_same_file(path: Path) -> None:
    """The supervisor, whose standard error it is, and the workers of other volumes."""
    file, other = LogFile.open(path), LogFile.open(path)
    file.write(b"0123456789")
    other.write(b"other")
    file.write(b"mine")
    assert path.read_bytes() == b"othermine"
    file.close()
    other.close()


def test_one_process_at_a_time_begins_it_anew(path: Path) -> None:
    file = LogFile.open(path)
    other = os.open(path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        file.write(b"0123456789")
    os.close(other)
    assert path.read_bytes() == b"0123456789", "and what was written is there"
    file.write(b"x")
    file.close()
    assert path.read_bytes() == b""
    assert older(path).read_bytes() == b"0123456789x"


def test_without_room_for_both_the_older_part_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sendfile", full)
    older(path).write_bytes(b"oldest")
    file = LogFile.open(path)
    file.write(b"0123456789")
    file.write(b"next")
    file.close()
    assert path.read_bytes() == b"next"
    assert list(path.parent.iterdir()) == [path]


def test_of_one_that_nobody_bounded_only_the_end_is_kept(path: Path) -> None:
    """Worker.log of an earlier release may have gigabytes."""
    path.write_bytes(b"old" * 100 + b"0123456789abcdefghi")
    file = LogFile.open(path)
    file.write(b"\n")
    file.close()
    assert path.read_bytes() == b""
    assert older(path).read_bytes() == b"0123456789abcdefghi\n"


def test_a_full_file_begins_anew_on_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what fills it, and nothing can be appended to it."""

    path.write_bytes(b"0123456789")
    file = LogFile.open(path)
    with monkeypatch.context() as patch:
        for name in ("write", "sendfile"):
            patch.setattr(os, name, full)
        with pytest.raises(OSError, match="No space left"):
            file.write(b"lost")
    file.write(b"next")
    file.close()
    assert path.read_bytes() == b"next"


def test_the_older_part_is_beside_the_file_and_not_beside_a_link_to_it(path: Path) -> None:
    """Log.file may be /dev/stderr, and that a file."""
    links = path.parent / "dev"
    links.mkdir()
    (links / "stderr").symlink_to(path)
    file = LogFile.open(links / "stderr")
    file.write(b"0123456789")
    file.close()
    assert (path.read_bytes(), older(path).read_bytes()) == (b"", b"0123456789")
    assert os.listdir(links) == ["stderr"]


def test_a_file_that_was_moved_is_somebody_elses_to_bound(path: Path) -> None:
    file = LogFile.open(path)
    path.rename(older(path))
    path.write_bytes(b"new")
    file.write(b"0123456789")
    file.close()
    assert (path.read_bytes(), older(path).read_bytes()) == (b"new", b"0123456789")


@pytest.mark.parametrize("named", [True, False])
def test_only_a_file_of_its_own_has_a_limit(path: Path, named: bool) -> None:
    """Not a pipe, nor what standard error was sent to."""
    if named:
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        file = LogFile.open(path)
    else:
        reader = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        file = LogFile(reader)
    file.write(b"0123456789")
    file.write(b"0123456789")
    got = os.read(reader, 100) if named else os.pread(reader, 100, 0)
    assert got == b"0123456789" * 2
    assert not older(path).exists()
    file.close()
    os.close(reader)
