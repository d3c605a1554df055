"""What strict programs expect of a directory: times, set-id bits, synchronous writes, attribute
names."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.mount.conftest import Place
from tests.support.mounts import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize(
        "capabilities", ["all", "none", "libfuse"], indirect=True, scope="module"
    ),
]

LONG_AGO = 10**18


def as_other_user(call: Callable[[], object]) -> None:
    """Run ``call`` as a user without privileges, in a process of its own."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            call()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def mode_as_known(path: Path) -> int:
    """The permission bits that the kernel has, if it thinks that it need not ask: statx(2) of the
    mode alone (a stat wants times, which a write makes unknown)."""
    result = (ctypes.c_uint16 * 128)()
    assert ctypes.CDLL(None).statx(-100, os.fsencode(path), 0, 2, result) == 0
    return int(result[14]) & 0o7777


@pytest.mark.parametrize("content", [b"", b"content"])
def test_emptying_a_file_changes_its_times(place: Place, content: bytes) -> None:
    """``: > stamp`` of an empty file, too."""
    path = place.root / "stamp"
    path.write_bytes(content)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert path.stat().st_mtime_ns == LONG_AGO
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_mtime_ns > LONG_AGO
    assert (place.objects / "stamp").read_bytes() == b""


def test_truncating_to_the_same_size_changes_the_times(place: Place) -> None:
    path = place.root / "f"
    path.write_bytes(b"content")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    with path.open("r+b") as file:
        file.truncate(7)
    assert path.stat().st_mtime_ns > LONG_AGO
    assert path.read_bytes() == b"content"


def test_reading_a_new_empty_file_does_not_change_its_times(place: Place) -> None:
    path = place.root / "f"
    os.mknod(path)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert path.read_bytes() == b""
    assert path.stat().st_mtime_ns == LONG_AGO


@pytest.mark.parametrize("opened_for_reading", [False, True])
def test_a_write_takes_set_id_bits_away(place: Place, opened_for_reading: bool) -> None:
    path = place.root / "program"
    path.write_bytes(b"content")
    os.chmod(path, 0o6777)
    reader = os.open(path, os.O_RDONLY) if opened_for_reading else -1
    place_fd = os.open(place.root, os.O_RDONLY)  # the way there is not for everybody
    as_other_user(lambda: os.write(os.open("program", os.O_WRONLY, dir_fd=place_fd), b"x"))
    wait_for(lambda: mode_as_known(path) == 0o777, 3, "the mode by which it would be run")
    assert path.stat().st_mode & 0o7777 == 0o777
    if opened_for_reading:
        assert os.pread(reader, 10, 0) == b"xontent"
        os.close(reader)
    os.chmod(path, 0o6777)
    as_other_user(lambda: os.truncate(f"/proc/self/fd/{place_fd}/program", 1))
    os.close(place_fd)
    assert path.stat().st_mode & 0o7777 == 0o777


@contextmanager
def opened(name: str, flags: int, place_fd: int) -> Iterator[int]:
    fd = os.open(name, flags, dir_fd=place_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def empty(place_fd: int) -> None:
    with opened("program", os.O_WRONLY | os.O_TRUNC, place_fd):
        pass


def reserve(place_fd: int) -> None:
    with opened("program", os.O_RDWR, place_fd) as fd:
        os.posix_fallocate(fd, 0, 100)


def copy(place_fd: int) -> None:
    with (
        opened("source", os.O_RDONLY, place_fd) as source,
        opened("program", os.O_WRONLY, place_fd) as target,
    ):
        os.copy_file_range(source, target, 6)


@pytest.mark.parametrize("change", [empty, reserve, copy])
def test_other_changes_take_set_id_bits_away(place: Place, change: Callable[[int], None]) -> None:
    path = place.root / "program"
    path.write_bytes(b"content")
    (place.root / "source").write_bytes(b"source")
    os.chmod(path, 0o6777)
    place_fd = os.open(place.root, os.O_RDONLY)
    change(place_fd)
    assert path.stat().st_mode & 0o7777 == 0o6777, "root may keep them"
    as_other_user(lambda: change(place_fd))
    os.close(place_fd)
    wait_for(lambda: mode_as_known(path) == 0o777, 3, "the mode by which it would be run")
    assert path.stat().st_mode & 0o7777 == 0o777


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
@pytest.mark.parametrize("opened_for_reading", [False, True])
def test_a_synchronous_write_is_in_the_store_when_it_returns(
    place: Place, flag: int, opened_for_reading: bool
) -> None:
    path = place.root / "f"
    path.write_bytes(b"before")
    reader = os.open(path, os.O_RDONLY) if opened_for_reading else -1
    fd = os.open(path, os.O_WRONLY | flag)
    os.write(fd, b"synced")
    assert (place.objects / "f").read_bytes() == b"synced"
    os.close(fd)
    if opened_for_reading:
        assert os.pread(reader, 10, 0) == b"synced"
        os.close(reader)
    created = os.open(place.root / "new", os.O_WRONLY | os.O_CREAT | flag)
    os.write(created, b"synced")
    assert (place.objects / "new").read_bytes() == b"synced"
    os.close(created)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("plain", errno.EOPNOTSUPP),
        ("other.name", errno.EOPNOTSUPP),
        ("user.", errno.EINVAL),
    ],
)
def test_names_that_attributes_cannot_have(place: Place, name: str, error: int) -> None:
    if "xattr" not in place.capabilities:
        error = errno.EOPNOTSUPP
    path = place.root / "f"
    path.touch()
    with pytest.raises(OSError) as caught:
        os.setxattr(path, name, b"1")
    assert caught.value.errno == error


@pytest.mark.parametrize("opened_for_reading", [False, True])
def test_direct_writes_end_with_a_shorter_block(place: Place, opened_for_reading: bool) -> None:
    """As dd does it (oflag=direct): without O_DIRECT, which it takes off for that block."""
    path, content = place.root / "copy", os.urandom(10_007)
    path.write_bytes(b"old")
    reader = os.open(path, os.O_RDONLY) if opened_for_reading else -1
    try:
        command = ["dd", f"of={path}", "bs=4k", "oflag=direct", "iflag=fullblock"]
        subprocess.run(command, input=content, check=True, stderr=subprocess.DEVNULL)
        assert path.read_bytes() == content
        if opened_for_reading:
            assert os.pread(reader, 20_000, 0) == content
    finally:
        if opened_for_reading:
            os.close(reader)


def test_a_directory_that_was_removed_while_it_is_open(place: Place) -> None:
    directory = place.root / "d"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        directory.rmdir()
        assert os.fstat(fd).st_nlink == 0
        with pytest.raises(FileNotFoundError):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with pytest.raises(FileNotFoundError):
            os.stat("new", dir_fd=fd)
        again = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        try:
            assert os.listdir(again) == []
        finally:
            os.close(again)
    finally:
        os.close(fd)


@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
def test_nothing_is_before_the_beginning(place: Place, whence: int) -> None:
    """Neither of a file that is being written nor of one that the store has."""
    (place.objects / "stored").write_bytes(b"x")
    with (place.root / "new").open("wb") as new, (place.root / "stored").open("rb") as stored:
        for file in (new, stored):
            with pytest.raises(OSError) as caught:
                os.lseek(file.fileno(), -1, whence)
            assert caught.value.errno == errno.ENXIO
