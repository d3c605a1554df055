"""What programs expect of a directory, through the real kernel."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount, Place
from tests.support.mounts import TestMount, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize(
        "capabilities", ["all", "none", "libfuse"], indirect=True, scope="module"
    ),
]

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def test_written_bytes_are_read_back_and_are_the_object(place: Place) -> None:
    data = os.urandom(3_000_001)
    (place.root / "f").write_bytes(data)
    assert (place.root / "f").read_bytes() == data
    assert (place.objects / "f").read_bytes() == data
    assert (place.root / "f").stat().st_size == len(data)


def test_objects_that_were_there_are_files(place: Place) -> None:
    (place.objects / "d/e").mkdir(parents=True)
    (place.objects / "d/e/f").write_bytes(b"hello")
    assert (place.root / "d/e/f").read_bytes() == b"hello"
    assert sorted(os.listdir(place.root / "d")) == ["e"]


def test_empty_objects_are_listed(place: Place) -> None:
    """What an empty object is, only its metadata says."""
    for number in range(50):
        (place.objects / f"{number}").write_bytes(b"")
    with os.scandir(place.root) as entries:
        found = {entry.name: (entry.is_file(), entry.stat().st_size) for entry in entries}
    assert found == {f"{number}": (True, 0) for number in range(50)}


def test_append(place: Place) -> None:
    for text in ("one\n", "two\n", "three\n"):
        with (place.root / "log").open("a") as file:
            file.write(text)
    assert (place.objects / "log").read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("size", [100, 300_000, 3_000_000])
def test_random_writes_into_an_existing_object(place: Place, size: int) -> None:
    expected = bytearray(os.urandom(size))
    (place.objects / "f").write_bytes(expected)
    with (place.root / "f").open("r+b", buffering=0) as file:
        for offset in (0, size // 3, size - 7):
            file.seek(offset)
            file.write(b"CHANGED")
            expected[offset : offset + 7] = b"CHANGED"
        file.seek(0)
        assert file.read() == expected
    assert (place.objects / "f").read_bytes() == expected
    assert (place.root / "f").read_bytes() == expected


@pytest.mark.parametrize("size", [0, 1, 4095, 200_000, 5_000_000])
def test_truncate_both_ways(place: Place, size: int) -> None:
    data = os.urandom(1_000_000)
    (place.objects / "f").write_bytes(data)
    os.truncate(place.root / "f", size)
    expected = data[:size] + bytes(max(0, size - len(data)))
    assert (place.root / "f").read_bytes() == expected
    wait_for(lambda: (place.objects / "f").read_bytes() == expected, what="the object to follow")


def test_open_with_o_trunc(place: Place) -> None:
    (place.objects / "f").write_bytes(b"x" * 100_000)
    (place.root / "f").write_bytes(b"short")
    assert (place.root / "f").read_bytes() == b"short"
    assert (place.objects / "f").read_bytes() == b"short"


def test_sparse_file(place: Place) -> None:
    with (place.root / "f").open("wb") as file:
        file.seek(10_000_000)
        file.write(b"end")
    with (place.root / "f").open("rb") as file:
        assert file.read(10_000_000) == bytes(10_000_000)
        assert file.read() == b"end"


def test_seek_data_and_hole(place: Place) -> None:
    data, hole = 8 << 20, (8 << 20) + 4096
    if "lseek" not in place.capabilities:
        data = 0  # the kernel knows no holes then: all is data up to the end of the file
    with (place.root / "f").open("w+b") as file:
        file.seek(8 << 20)
        file.write(b"x" * 4096)
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == data
        assert os.lseek(file.fileno(), 8 << 20, os.SEEK_HOLE) == hole
        with pytest.raises(OSError) as caught:
            os.lseek(file.fileno(), 9 << 20, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO


def test_o_excl(place: Place) -> None:
    os.close(os.open(place.root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    with pytest.raises(FileExistsError):
        os.open(place.root / "f", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_mkdir_rmdir_and_their_errors(place: Place) -> None:
    root = place.root
    (root / "d").mkdir()
    with pytest.raises(FileExistsError):
        (root / "d").mkdir()
    (root / "d/f").write_text("x")
    with pytest.raises(OSError) as caught:
        (root / "d").rmdir()
    assert caught.value.errno == errno.ENOTEMPTY
    (root / "d/f").unlink()
    (root / "d").rmdir()
    assert os.listdir(root) == []
    with pytest.raises(FileNotFoundError):
        (root / "none/f").write_text("x")


def test_empty_directories_stay(place: Place) -> None:
    (place.root / "d").mkdir()
    place.wait_idle()
    assert (place.objects / "d").is_dir()


def test_rename_file_and_directory(place: Place) -> None:
    root = place.root
    (root / "d/s").mkdir(parents=True)
    for i in range(20):
        (root / f"d/s/{i}").write_text(str(i))
    (root / "a").write_text("a")
    (root / "a").rename(root / "b")
    (root / "d").rename(root / "n")
    assert sorted(os.listdir(root)) == ["b", "n"]
    assert {p.name: p.read_text() for p in (root / "n/s").iterdir()} == {
        str(i): str(i) for i in range(20)
    }
    place.wait_idle()
    assert (place.objects / "b").read_text() == "a"
    assert sorted(p.name for p in place.objects.iterdir() if not p.name.startswith(".")) == [
        "b",
        "n",
    ]
    assert (place.objects / "n/s/7").read_text() == "7"


def test_rename_over_open_file(place: Place) -> None:
    root = place.root
    (root / "old").write_text("old content")
    (root / "new").write_text("new content")
    with (root / "old").open("rb", buffering=0) as file:
        (root / "new").rename(root / "old")
        assert file.read() == b"old content"
        assert (root / "old").read_text() == "new content"
    place.wait_idle()
    assert (place.objects / "old").read_text() == "new content"


def test_rename_noreplace_and_exchange(place: Place) -> None:
    root = place.root
    (root / "a").write_text("A")
    (root / "b").write_text("B")
    with pytest.raises(OSError) as caught:
        renameat2(root / "a", root / "b", 1)
    assert caught.value.errno == errno.EEXIST
    renameat2(root / "a", root / "b", 2)
    assert ((root / "a").read_text(), (root / "b").read_text()) == ("B", "A")
    place.wait_idle()
    assert ((place.objects / "a").read_text(), (place.objects / "b").read_text()) == ("B", "A")


def test_unlink_while_open(place: Place) -> None:
    path = place.root / "f"
    path.write_bytes(b"x" * 100_000)
    with path.open("r+b", buffering=0) as file:
        path.unlink()
        assert not path.exists()
        file.write(b"changed")
        file.seek(0)
        assert file.read(7) == b"changed"
        assert os.fstat(file.fileno()).st_nlink == 0
        path.write_text("another")
    place.wait_idle()
    assert (place.objects / "f").read_text() == "another"


def test_what_is_open_without_our_knowledge_can_be_asked_when_it_is_removed(place: Place) -> None:
    root = place.root
    (root / "file").write_bytes(b"content")
    (root / "other").write_bytes(b"content")
    os.mkfifo(root / "fifo")
    fds = [os.open(root / name, os.O_PATH) for name in ("file", "other")]
    fds.append(os.open(root / "fifo", os.O_RDWR))
    (root / "file").unlink()
    (root / "fifo").unlink()
    (root / "file").write_bytes(b"new")
    (root / "file").rename(root / "other")
    assert [os.fstat(fd).st_nlink for fd in fds] == [0, 0, 0]
    for fd in fds:
        os.close(fd)


def test_symlink_fifo_socket(place: Place) -> None:
    root = place.root
    (root / "link").symlink_to("some/where")
    assert os.readlink(root / "link") == "some/where"
    os.mkfifo(root / "fifo")
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "sock"))
    assert stat.S_ISSOCK((root / "sock").stat().st_mode)


def test_special_files_survive_the_loss_of_the_catalog(volume: TestMount) -> None:
    root = volume.root
    (root / "link").symlink_to("target")
    os.mkfifo(root / "fifo")
    (root / "empty").write_bytes(b"")
    state = Path(volume.entry()["state"])
    volume.umount()
    for path in state.glob("catalog.db*"):
        path.unlink()
    volume.mount()
    assert os.readlink(root / "link") == "target"
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    assert (root / "empty").is_file()


def test_hard_links_are_refused_cleanly(place: Place) -> None:
    (place.root / "a").write_text("a")
    with pytest.raises(OSError) as caught:
        os.link(place.root / "a", place.root / "b")
    assert caught.value.errno in (errno.EPERM, errno.EOPNOTSUPP)


def test_mode_owner_and_times(volume: TestMount) -> None:
    path = volume.root / "f"
    path.write_text("x")
    path.chmod(0o751)
    os.chown(path, 12, 34)
    os.utime(path, ns=(10**18, 10**18 + 5))
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o751, 12, 34)
    assert found.st_mtime_ns == 10**18 + 5
    volume.umount()
    volume.mount()
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o751, 12, 34)
    assert found.st_mtime_ns == 10**18 + 5


def test_xattrs(place: Place) -> None:
    path = place.root / "f"
    path.write_text("x")
    if "xattr" not in place.capabilities:
        with pytest.raises(OSError) as caught:
            os.setxattr(path, "user.a", b"1")
        assert caught.value.errno == errno.EOPNOTSUPP
        return
    os.setxattr(path, "user.a", b"1")
    os.setxattr(path, "user.b", b"\x00\xff")
    assert sorted(os.listxattr(path)) == ["user.a", "user.b"]
    assert os.getxattr(path, "user.b") == b"\x00\xff"
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    os.removexattr(path, "user.a")
    with pytest.raises(OSError) as caught:
        os.getxattr(path, "user.a")
    assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError) as caught:
        os.setxattr(path, "user.big", b"x" * 10_000)
    assert caught.value.errno == errno.ENOSPC


def test_posix_fallocate(place: Place) -> None:
    """Where the kernel does not ask us, the C library writes a byte to each block."""
    with (place.root / "f").open("w+b", buffering=0) as file:
        file.write(b"x" * 100_000)
        os.posix_fallocate(file.fileno(), 0, 200_000)
        assert os.fstat(file.fileno()).st_size == 200_000
        assert os.pread(file.fileno(), 200_000, 0) == b"x" * 100_000 + bytes(100_000)
    assert (place.objects / "f").stat().st_size == 200_000


def test_punching_and_zeroing(place: Place) -> None:
    with (place.root / "f").open("w+b", buffering=0) as file:
        fd = file.fileno()
        file.write(b"x" * 100_000)
        keep, punch, zero = 1, 2, 16
        if "fallocate" not in place.capabilities:
            assert libc.fallocate(fd, keep | punch, ctypes.c_long(0), ctypes.c_long(4096)) == -1
            assert ctypes.get_errno() == errno.EOPNOTSUPP
            return
        assert libc.fallocate(fd, keep | punch, ctypes.c_long(4096), ctypes.c_long(4096)) == 0
        assert libc.fallocate(fd, zero, ctypes.c_long(20_000), ctypes.c_long(100)) == 0
        assert os.pread(fd, 4096, 4096) == bytes(4096)
        assert os.pread(fd, 100, 20_000) == bytes(100)
        assert os.pread(fd, 10, 19_990) == b"x" * 10
        assert os.fstat(fd).st_size == 100_000


def test_mmap_read_and_shared_write(place: Place) -> None:
    path = place.root / "f"
    path.write_bytes(b"a" * 1_000_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        assert memory[999_999] == ord("a")
        memory[500_000:500_005] = b"mmap!"
        memory.flush()
        os.fsync(file.fileno())
    assert path.read_bytes()[500_000:500_005] == b"mmap!"
    wait_for(lambda: (place.objects / "f").read_bytes()[500_000:500_005] == b"mmap!")


def test_copy_file_range(place: Place) -> None:
    data = os.urandom(2_000_000)
    (place.root / "a").write_bytes(data)
    with (place.root / "a").open("rb") as source, (place.root / "b").open("wb") as target:
        left = len(data)
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert (place.root / "b").read_bytes() == data
    assert (place.objects / "b").read_bytes() == data


def test_names(place: Place) -> None:
    names = [" lead", "trail ", "ü%20+&?#", "new\nline", 'a:b*"<>|\\', "x" * 255, "-", "~"]
    for name in names:
        (place.root / name).write_text(name)
    assert sorted(os.listdir(place.root)) == sorted(names)
    for name in names:
        assert (place.root / name).read_text() == name
        assert (place.objects / name).read_text() == name
    with pytest.raises(OSError) as caught:
        (place.root / ("y" * 256)).write_text("x")
    assert caught.value.errno == errno.ENAMETOOLONG
    with pytest.raises(OSError) as caught:
        (Path(os.fsdecode(os.fsencode(place.root) + b"/\xff"))).write_text("x")
    assert caught.value.errno == errno.EILSEQ


def test_deep_tree(place: Place) -> None:
    path = place.root
    for i in range(40):
        path = path / f"level{i}"
    path.mkdir(parents=True)
    (path / "leaf").write_text("deep")
    assert (path / "leaf").read_text() == "deep"


def test_statfs(place: Place) -> None:
    found = os.statvfs(place.root)
    assert found.f_namemax == 255
    assert found.f_bavail > 0


def test_concurrent_writers_of_one_file(place: Place) -> None:
    path = place.root / "f"
    path.write_bytes(bytes(8 * 4096))

    def work(part: int) -> None:
        with path.open("r+b", buffering=0) as file:
            file.seek(part * 4096)
            file.write(bytes([part + 1]) * 4096)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = b"".join(bytes([part + 1]) * 4096 for part in range(8))
    assert path.read_bytes() == expected
    wait_for(lambda: (place.objects / "f").read_bytes() == expected)


def test_read_only_volume(make_mount: MakeMount, capabilities: list[str], objects: Path) -> None:
    (objects / "d").mkdir()
    (objects / "d/f").write_bytes(b"x" * 10_000)
    (objects / "big").write_bytes(os.urandom(3_000_000))
    volume = make_mount(options=[*capabilities, "volume.read_only=true"]).mount()
    assert (volume.root / "d/f").read_bytes() == b"x" * 10_000
    assert (volume.root / "big").read_bytes() == (objects / "big").read_bytes()
    assert sorted(os.listdir(volume.root)) == ["big", "d"]
    for action in (
        lambda: (volume.root / "new").write_text("x"),
        lambda: (volume.root / "d/f").open("r+b"),
        lambda: (volume.root / "d/f").unlink(),
        lambda: (volume.root / "m").mkdir(),
        lambda: (volume.root / "big").rename(volume.root / "b2"),
        lambda: (volume.root / "big").chmod(0o600),
        lambda: os.truncate(volume.root / "big", 0),
    ):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EROFS
