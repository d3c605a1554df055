"""Objects that are replaced by somebody else while programs have the file open."""

from __future__ import annotations

import errno
import mmap
import os
from io import FileIO
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import TestMount, wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("capabilities", ["all", "none", "libfuse"], indirect=True),
]

OLD, NEW = b"old content", b"another content"
LARGE = 4_000_000


@pytest.fixture
def mount(make_mount: MakeMount, capabilities: list[str], objects: Path) -> TestMount:
    (objects / "f").write_bytes(OLD)
    return make_mount(options=[*capabilities, "volume.close_to_open=true"]).mount()


@pytest.mark.parametrize("names_are_listed", [False, True])
def test_who_opens_it_then_has_the_new_content_and_who_had_it_open_the_old(
    mount: TestMount, objects: Path, names_are_listed: bool
) -> None:
    path = mount.root / "f"
    before = os.open(path, os.O_RDONLY)
    assert os.pread(before, 100, 0) == OLD
    (objects / "f").write_bytes(NEW)
    if names_are_listed:
        os.listdir(mount.root)
    for _ in range(2):
        with path.open("rb") as file:
            assert file.read() == NEW
            assert os.fstat(file.fileno()).st_size == len(NEW)
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == NEW
        assert os.pread(before, 100, 0) == OLD
    os.close(before)
    assert path.read_bytes() == NEW


def test_who_writes_to_it_then_changes_the_new_content(mount: TestMount, objects: Path) -> None:
    path = mount.root / "f"
    with path.open("rb") as before:
        assert before.read(3) == OLD[:3]
        (objects / "f").write_bytes(NEW)
        with path.open("r+b") as file:
            file.write(b"A")
        assert (objects / "f").read_bytes() == b"A" + NEW[1:]
        assert os.pread(before.fileno(), 100, 0) == OLD
    assert path.read_bytes() == b"A" + NEW[1:]


@pytest.mark.parametrize("size", [0, 3])
def test_who_cuts_it_by_name_then_cuts_the_new_content(
    mount: TestMount, objects: Path, size: int
) -> None:
    path = mount.root / "f"
    with path.open("rb") as before:
        assert before.read(3) == OLD[:3]
        (objects / "f").write_bytes(NEW)
        assert path.read_bytes() == NEW  # known by now
        os.truncate(path, size)
        assert path.read_bytes() == NEW[:size]
        assert os.pread(before.fileno(), 100, 0) == OLD
    mount.wait_idle()
    assert (objects / "f").read_bytes() == NEW[:size]


def rest_of(file: FileIO) -> tuple[bytes, bool]:
    """What can be read, and whether ESTALE ended it."""
    rest = b""
    try:
        while part := file.read(1 << 18):
            rest += part
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return rest, True
    return rest, False


@pytest.mark.parametrize("size", [5000, LARGE, 2 * LARGE])
@pytest.mark.parametrize("read_only", [False, True])
def test_who_reads_it_has_one_version_whoever_looks_at_the_name(
    make_mount: MakeMount, capabilities: list[str], objects: Path, read_only: bool, size: int
) -> None:
    """Not the beginning of one and the rest of another, nor a file that ends early."""
    old = os.urandom(LARGE)
    (objects / "f").write_bytes(old)
    options = [*capabilities, "volume.metadata_ttl=0.5", f"volume.read_only={read_only}"]
    mount = make_mount(options=options).mount()
    path, got = mount.root / "f", b""
    with path.open("rb", buffering=0) as file:
        got += file.read(1 << 16)
        (objects / "new").write_bytes(bytes(size))
        os.utime(objects / "new", (1000, 1000))
        (objects / "new").rename(objects / "f")
        wait_for(lambda: path.stat().st_mtime == 1000)
        assert path.stat().st_size == size
        rest, stale = rest_of(file)
        got += rest
        assert got == (old[: len(got)] if stale else old)
    assert path.read_bytes() == bytes(size)
