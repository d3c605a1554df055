"""Every operation through the real kernel, with all its capabilities and with none."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.fuse.serve import Server, serving
from tests.support.memfs import Behaviour

pytestmark = pytest.mark.integration

MODES: dict[str, tuple[Behaviour, tuple[str, ...], str, str]] = {
    "all on": (Behaviour(), (), "uvloop", "native"),
    "all off": (Behaviour(reads="view"), ("all",), "uvloop", "native"),
    "handlers wait": (Behaviour(slow=True, ttl=1), (), "asyncio", "native"),
    "ranges of files": (Behaviour(reads="range", ttl=1), (), "uvloop", "native"),
    "passthrough": (Behaviour(passthrough=True, ttl=1), (), "uvloop", "native"),
    "libfuse": (Behaviour(reads="range"), (), "uvloop", "pyfuse3"),
    "libfuse, handlers wait": (Behaviour(slow=True, ttl=1), (), "asyncio", "pyfuse3"),
}


@pytest.fixture(scope="module", params=list(MODES))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    behaviour, off, loop, engine = MODES[request.param]
    if engine == "pyfuse3":
        pytest.importorskip("pyfuse3")
    directory = tmp_path_factory.mktemp("fuse")
    with serving(directory, behaviour, off, loop=loop, engine=engine) as server:
        yield server


@pytest.fixture
def root(server: Server, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own."""
    server.watch()
    path = server.mountpoint / f"{abs(hash(request.node.name)):x}"
    path.mkdir()
    return path


def uses(server: Server, capability: str) -> bool:
    return server.state is not None and capability in server.state["capabilities"]


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno == number


def test_the_mount_is_seen_in_mountinfo(server: Server) -> None:
    line = next(
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if f" {server.mountpoint} " in line
    )
    assert "- fuse.slayerfs memfs\\043test rw," in line
    assert "nosuid,nodev" in line
    assert f" 0:{server.connection} " in line


def test_files_are_made_written_read_and_removed(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"hello")
    assert path.read_bytes() == b"hello"
    assert path.stat().st_size == 5
    path.unlink()
    assert not path.exists()
    refused(errno.ENOENT, path.read_bytes)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131072, 131073, 3_000_001])
def test_contents_of_any_size(root: Path, size: int) -> None:
    data = os.urandom(size)
    path = root / "file"
    path.write_bytes(data)
    assert path.read_bytes() == data
    # By another process, which finds nothing in this one's descriptors.
    again = subprocess.run(["cat", str(path)], capture_output=True, timeout=30, check=True)
    assert again.stdout == data


def test_reads_and_writes_at_offsets_and_holes(root: Path) -> None:
    fd = os.open(root / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    assert os.pwrite(fd, b"end", 100_000) == 3
    assert os.pwrite(fd, b"begin", 0) == 5
    assert os.pread(fd, 10, 0) == b"begin" + bytes(5)
    assert os.pread(fd, 10, 99_998) == b"\0\0end"
    assert os.pread(fd, 10, 200_000) == b""
    os.close(fd)


def test_append(root: Path) -> None:
    path = root / "file"
    for n in range(3):
        with path.open("ab") as file:
            file.write(f"{n}".encode())
    assert path.read_bytes() == b"012"


def test_open_flags(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"old contents")
    refused(errno.EEXIST, lambda: os.open(path, os.O_CREAT | os.O_EXCL))
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    assert path.stat().st_size == 0


def test_truncate_both_ways(root: Path) -> None:
    path = root / "file"
    path.write_bytes(b"0123456789")
    os.truncate(path, 4)
    assert path.read_bytes() == b"0123"
    os.truncate(path, 6)
    assert path.read_bytes() == b"0123\0\0"


def test_mode_owner_and_times(root: Path) -> None:
    path = root / "file"
    path.touch()
    path.chmod(0o640)
    os.chown(path, 12, 34)
    os.utime(path, ns=(1_111_111_111_222_222_222, 1_333_333_333_444_444_444))
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert (found.st_uid, found.st_gid) == (12, 34)
    assert found.st_mtime_ns == 1_333_333_333_444_444_444
    os.utime(path, ns=(-1_500_000_000, -2_500_000_000))
    assert path.stat().st_mtime_ns == -2_500_000_000


def as_nobody(directory: Path, statement: str) -> str:
    """Run a statement as another user, ``at`` being the directory; returns what it complains of.

    By descriptor, for that user may not enter the directories above.
    """
    at = os.open(directory, os.O_RDONLY)
    try:
        got = subprocess.run(
            [sys.executable, "-c", f"import os; at = {at}; os.setuid(65534); {statement}"],
            pass_fds=[at], capture_output=True, timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(at)
    return got.stderr.decode()


def test_permissions_are_checked_by_the_kernel(root: Path) -> None:
    path = root / "secret"
    path.write_bytes(b"x")
    path.chmod(0o600)
    read = "os.open('secret', os.O_RDONLY, dir_fd=at)"
    assert "Permission denied: 'secret'" in as_nobody(root, read)
    path.chmod(0o644)
    assert as_nobody(root, read) == ""


def test_set_id_bits_go_when_somebody_else_writes(
    server: Server, root: Path, request: pytest.FixtureRequest
) -> None:
    path = root / "program"
    path.write_bytes(b"x")
    path.chmod(0o6777)
    path.write_bytes(b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o6777, "root may keep them"
    write = "os.write(os.open('program', os.O_WRONLY, dir_fd=at), b'z')"
    assert as_nobody(root, write) == ""
    if request.node.callspec.id != "passthrough":  # the kernel asks nobody then
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o6777)
    truncate = "os.ftruncate(os.open('program', os.O_WRONLY, dir_fd=at), 0)"
    assert as_nobody(root, truncate) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def test_directories(root: Path) -> None:
    (root / "a/b").mkdir(parents=True)
    assert root.joinpath("a").stat().st_nlink == 3
    refused(errno.ENOTEMPTY, (root / "a").rmdir)
    refused(errno.EEXIST, (root / "a").mkdir)
    (root / "a/b").rmdir()
    (root / "a").rmdir()
    assert os.listdir(root) == []


def test_a_directory_of_many_names(root: Path) -> None:
    wanted = {f"{n:04}-{'x' * (n % 200)}" for n in range(500)}
    for name in wanted:
        (root / name).touch()
    assert set(os.listdir(root)) == wanted
    with os.scandir(root) as entries:
        sizes = {entry.name: (entry.is_file(), entry.stat().st_size) for entry in entries}
    assert sizes == dict.fromkeys(wanted, (True, 0))


def test_long_and_odd_names(root: Path) -> None:
    for name in (b"x" * 255, b"new\nline", b"\xff\xfe", "ümläut".encode(), b"...", b" "):
        path = os.path.join(os.fsencode(root), name)
        with open(path, "wb") as file:
            file.write(name)
        assert name in os.listdir(os.fsencode(root))
        with open(path, "rb") as file:
            assert file.read() == name


def test_symlinks(root: Path) -> None:
    (root / "target").write_bytes(b"here")
    (root / "link").symlink_to("target")
    assert os.readlink(root / "link") == "target"
    assert (root / "link").read_bytes() == b"here"
    assert os.lstat(root / "link").st_size == 6
    long = "/".join(["d" * 200] * 15)
    (root / "long").symlink_to(long)
    assert os.readlink(root / "long") == long


def test_hard_links(root: Path) -> None:
    (root / "one").write_bytes(b"data")
    os.link(root / "one", root / "two")
    assert (root / "two").stat().st_nlink == 2
    (root / "one").unlink()
    assert (root / "two").read_bytes() == b"data"


def test_special_files(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o600)
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(root, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/sock")
        finally:
            os.close(directory)
    assert stat.S_ISSOCK((root / "sock").stat().st_mode)
    os.mknod(root / "plain", stat.S_IFREG | 0o600)
    assert (root / "plain").read_bytes() == b""


def rename2(old: Path, new: Path, flags: int) -> None:
    code = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "old, new, flags = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2]), int(sys.argv[3])\n"
        "sys.exit(ctypes.get_errno() if libc.renameat2(-100, old, -100, new, flags) else 0)\n"
    )
    got = subprocess.run(
        [sys.executable, "-c", code, str(old), str(new), str(flags)], timeout=30, check=False
    )
    if got.returncode:
        raise OSError(got.returncode, os.strerror(got.returncode))


def test_rename(root: Path) -> None:
    (root / "one").write_bytes(b"1")
    (root / "two").write_bytes(b"2")
    (root / "dir").mkdir()
    os.rename(root / "one", root / "dir/moved")
    assert (root / "dir/moved").read_bytes() == b"1"
    os.rename(root / "two", root / "dir/moved")
    assert (root / "dir/moved").read_bytes() == b"2"
    assert os.listdir(root) == ["dir"]
    refused(errno.ENOENT, lambda: os.rename(root / "two", root / "three"))


def test_rename_flags(root: Path) -> None:
    (root / "one").write_bytes(b"1")
    (root / "two").write_bytes(b"2")
    refused(errno.EEXIST, lambda: rename2(root / "one", root / "two", 1))
    rename2(root / "one", root / "two", 2)
    assert (root / "one").read_bytes() == b"2"
    assert (root / "two").read_bytes() == b"1"
    rename2(root / "one", root / "three", 1)
    assert sorted(os.listdir(root)) == ["three", "two"]


def test_an_unlinked_file_lives_while_it_is_open(root: Path) -> None:
    path = root / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    os.write(fd, b"still here")
    assert os.pread(fd, 100, 0) == b"still here"
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_xattrs(server: Server, root: Path) -> None:
    path = root / "file"
    path.touch()
    if not uses(server, "xattr"):
        refused(errno.EOPNOTSUPP, lambda: os.setxattr(path, "user.a", b"x"))
        return
    os.setxattr(path, "user.a", b"value")
    os.setxattr(path, "user.empty", b"")
    big = os.urandom(60_000)
    os.setxattr(path, "user.big", big)
    assert os.getxattr(path, "user.a") == b"value"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "user.big") == big
    assert sorted(os.listxattr(path)) == ["user.a", "user.big", "user.empty"]
    refused(errno.EEXIST, lambda: os.setxattr(path, "user.a", b"", os.XATTR_CREATE))
    os.removexattr(path, "user.a")
    refused(errno.ENODATA, lambda: os.getxattr(path, "user.a"))


def test_statfs(root: Path) -> None:
    found = os.statvfs(root)
    assert (found.f_blocks, found.f_bfree, found.f_bavail) == (1000, 600, 500)
    assert (found.f_files, found.f_ffree, found.f_frsize) == (100, 50, 4096)
    assert found.f_namemax == 255


def test_fsync_reaches_the_file_system(server: Server, root: Path) -> None:
    fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
    directory = os.open(root, os.O_RDONLY)
    before = server.calls()
    os.fsync(fd)
    os.fdatasync(fd)
    os.fsync(directory)
    after = server.calls()
    for call in ("fsync", "fdatasync", "fsyncdir"):
        assert after[call] == before.get(call, 0) + 1
    os.close(fd)
    os.close(directory)


def test_fallocate(server: Server, root: Path) -> None:
    fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
    try:
        if not uses(server, "fallocate"):
            # The C library writes zeros instead; the system call itself says no.
            os.posix_fallocate(fd, 0, 10_000)
            assert "fallocate" not in server.calls()
        else:
            os.posix_fallocate(fd, 0, 10_000)
            assert server.calls()["fallocate"]
        assert os.fstat(fd).st_size == 10_000
    finally:
        os.close(fd)


def test_seeking_data_and_holes(server: Server, root: Path) -> None:
    fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"x" * 4096, 1 << 20)
        os.ftruncate(fd, 3 << 20)
        if not uses(server, "lseek"):
            assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        else:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 1 << 20
            assert os.lseek(fd, 1 << 20, os.SEEK_HOLE) == (1 << 20) + 4096
        refused(errno.ENXIO, lambda: os.lseek(fd, 4 << 20, os.SEEK_DATA))
    finally:
        os.close(fd)


def test_copy_file_range(server: Server, root: Path) -> None:
    data = os.urandom(500_000)
    (root / "from").write_bytes(data)
    source = os.open(root / "from", os.O_RDONLY)
    target = os.open(root / "to", os.O_RDWR | os.O_CREAT)
    try:
        copied = 0
        while copied < len(data):
            copied += os.copy_file_range(source, target, len(data) - copied)
        assert (root / "to").read_bytes() == data
        assert ("copy_file_range" in server.calls()) == uses(server, "copy_file_range")
    finally:
        os.close(source)
        os.close(target)


def test_a_shared_mapping_is_read_and_written(root: Path) -> None:
    path = root / "file"
    path.write_bytes(bytes(100_000))
    # In a process of its own: a page fault holds Python's lock while the kernel asks.
    code = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "    assert m[50_000] == 0\n"
        "    m[50_000:50_005] = b'hello'\n"
        "    m.flush()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], timeout=30, check=True)
    assert path.read_bytes()[50_000:50_006] == b"hello\0"


def test_locks_are_the_kernels(root: Path) -> None:
    path = root / "file"
    path.touch()
    code = (
        "import fcntl, sys\n"
        "f = open(sys.argv[1], 'r+b')\n"
        "try:\n"
        "    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError:\n"
        "    sys.exit(7)\n"
    )
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        got = subprocess.run([sys.executable, "-c", code, str(path)], timeout=30, check=False)
    assert got.returncode == 7


def test_files_that_nobody_can_open_twice_are_forgotten(server: Server, root: Path) -> None:
    before = server.calls().get("forget", 0)
    for n in range(50):
        (root / f"{n}").touch()
        (root / f"{n}").unlink()
    (root / "last").touch()
    deadline = time.monotonic() + 20  # a forget has no answer that anybody could wait for
    while server.calls().get("forget", 0) < before + 50:
        assert time.monotonic() < deadline
        time.sleep(0.02)
