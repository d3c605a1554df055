"""A file is changed that others have open: what is read, what is mapped and what is stored are one.

The kernel has one backing file for an inode, for as long as somebody has it open. Where that file
cannot be the one that is changed (another worker of the node serves it, too, or a worker that died
had it), the name gets another inode, and who has the old one open keeps its content.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import TestMount

pytestmark = pytest.mark.integration

every_engine = pytest.mark.parametrize("capabilities", ["all", "none", "libfuse"], indirect=True)
"""What files are open does not outlive the worker on libfuse."""

OLD = b"old " * 5000


@pytest.fixture
def mount(make_mount: MakeMount, capabilities: list[str], objects: Path) -> TestMount:
    (objects / "f").write_bytes(OLD)
    return make_mount(options=capabilities).mount()


@pytest.fixture
def held(mount: TestMount) -> Iterator[int]:
    fd = os.open(mount.root / "f", os.O_RDONLY)
    assert os.pread(fd, len(OLD), 0) == OLD
    yield fd
    os.close(fd)


def rewritten(path: Path) -> bytes:
    with path.open("wb") as file:
        file.write(b"new content")
    return b"new content"


def emptied(path: Path) -> bytes:
    os.truncate(path, 0)
    return b""


def cut(path: Path) -> bytes:
    os.truncate(path, 7)
    return OLD[:7]


def changed(path: Path) -> bytes:
    with path.open("r+b") as file:
        file.write(b"new")
    return b"new" + OLD[3:]


def appended(path: Path) -> bytes:
    with path.open("ab") as file:
        file.write(b"new")
    return OLD + b"new"


Change = Callable[[Path], bytes]
CHANGES: list[Change] = [rewritten, emptied, cut, changed, appended]


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def change(request: pytest.FixtureRequest) -> Change:
    found: Change = request.param
    return found


def check(mount: TestMount, objects: Path, want: bytes) -> None:
    """All ways to look at the file show ``want``, and what is stored into it arrives."""
    path = mount.root / "f"
    mount.wait_idle()  # truncate(2) by name has no close
    assert path.read_bytes() == want
    assert path.stat().st_size == len(want)
    assert (objects / "f").read_bytes() == want
    if not want:
        path.write_bytes(b"not empty")
        want = b"not empty"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped[:] == want
        mapped[:4] = b"MAPS"
        mapped.flush()
    want = b"MAPS" + want[4:]
    with path.open("ab") as file:
        file.write(b" and more")
        os.fsync(file.fileno())
    want += b" and more"
    assert path.read_bytes() == want
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == want
    assert (objects / "f").read_bytes() == want


@every_engine
def test_by_this_mount(mount: TestMount, objects: Path, held: int, change: Change) -> None:
    want = change(mount.root / "f")
    assert os.pread(held, 2 * len(OLD), 0) == want
    check(mount, objects, want)
    assert os.fstat(held).st_size == (mount.root / "f").stat().st_size


def test_after_its_worker_was_killed(
    mount: TestMount, objects: Path, held: int, change: Change
) -> None:
    mount.wait_for_successor(mount.kill_worker())
    want = change(mount.root / "f")
    assert os.pread(held, 2 * len(OLD), 0) in (OLD, want)
    check(mount, objects, want)
    assert os.pread(held, len(OLD), 0)[:4] in (OLD[:4], b"MAPS")


def test_before_its_worker_is_killed(
    mount: TestMount, objects: Path, held: int, change: Change
) -> None:
    want = change(mount.root / "f")
    mount.wait_for_successor(mount.kill_worker())
    assert os.pread(held, 2 * len(OLD), 0) == want
    check(mount, objects, want)


@every_engine
def test_while_another_mount_has_it_open(
    mount: TestMount,
    make_mount: MakeMount,
    capabilities: list[str],
    objects: Path,
    held: int,
    change: Change,
) -> None:
    other = make_mount(options=capabilities, cache=mount.cache, name="other").mount()
    theirs = os.open(other.root / "f", os.O_RDONLY)
    try:
        assert os.pread(theirs, len(OLD), 0) == OLD
        want = change(mount.root / "f")
        assert os.pread(held, 2 * len(OLD), 0) in (OLD, want)
        check(mount, objects, want)
        assert os.pread(theirs, len(OLD), 0) == OLD
        with mmap.mmap(theirs, 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == OLD
    finally:
        os.close(theirs)


def test_attributes_stay(mount: TestMount, make_mount: MakeMount, capabilities: list[str]) -> None:
    """Those of the name, whichever inode it has."""
    path = mount.root / "f"
    path.chmod(0o751)
    xattrs = "xattr" in mount.ask_status()["capabilities"]
    if xattrs:
        os.setxattr(path, "user.kept", b"value")
    mount.wait_idle()
    with path.open("rb") as mine:
        other = make_mount(options=capabilities, cache=mount.cache, name="other").mount()
        with (other.root / "f").open("rb"):
            assert changed(path) == path.read_bytes()
            assert path.stat().st_mode & 0o777 == 0o751
            assert not xattrs or os.getxattr(path, "user.kept") == b"value"
            assert mine.read(3) in (b"old", b"new")
    usage = mount.status()["used_bytes"]
    assert usage == len(OLD)
