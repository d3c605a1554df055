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


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("cut", [False, True])
def test_what_was_rewritten_here_and_is_only_read_hides_no_change_by_others(
    make_mount: MakeMount, capabilities: list[str], objects: Path, cut: bool, killed: bool
) -> None:
    if killed and "fuse.engine=pyfuse3" in capabilities:
        pytest.skip("what files are open does not outlive the worker on libfuse")
    (objects / "f").write_bytes(b"1" * LARGE)
    options = [*capabilities, "volume.close_to_open=true", "volume.hydrate_max=0"]
    mount = make_mount(options=options).mount()
    path = mount.root / "f"
    with path.open("rb") as before:
        with path.open("r+b") as file:
            if cut:
                file.truncate(0)
            file.write(b"2" * LARGE)
        mount.wait_idle()
        if killed:
            mount.wait_for_successor(mount.kill_worker())
        (objects / "f").write_bytes(b"3" * LARGE)
        assert path.read_bytes() == b"3" * LARGE
        with path.open("r+b") as file:
            file.write(b"4")
        assert path.read_bytes() == b"4" + b"3" * (LARGE - 1)
        assert before.read() == b"2" * LARGE
    mount.wait_idle()
    assert (objects / "f").read_bytes() == path.read_bytes() == b"4" + b"3" * (LARGE - 1)


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


def replace(objects: Path, name: str, content: bytes) -> None:
    """As another client would: another object, with an age of its own."""
    (objects / "new").write_bytes(content)
    os.utime(objects / "new", (1000, 1000))
    (objects / "new").rename(objects / name)


def test_who_reads_it_keeps_its_version_when_it_is_renamed_here(
    mount: TestMount, objects: Path
) -> None:
    """The store is asked for the object then, and has another one."""
    old = os.urandom(LARGE)
    replace(objects, "f", old)
    with (mount.root / "f").open("rb", buffering=0) as file:
        got = file.read(1 << 16)
        replace(objects, "f", NEW)
        (mount.root / "f").rename(mount.root / "g")
        wait_for(lambda: (objects / "g").exists() and not (objects / "f").exists())
        mount.wait_idle()
        rest, stale = rest_of(file)
        got += rest
        assert got == (old[: len(got)] if stale else old)
        assert os.fstat(file.fileno()).st_size == LARGE
    assert (mount.root / "g").read_bytes() == (objects / "g").read_bytes() == NEW


def test_who_has_it_open_keeps_what_is_gone_when_it_is_renamed_here(
    mount: TestMount, objects: Path
) -> None:
    with (mount.root / "f").open("rb", buffering=0) as file:
        assert file.read(3) == OLD[:3]
        (objects / "f").unlink()
        (mount.root / "f").rename(mount.root / "g")
        wait_for(lambda: not (mount.root / "g").exists())
        mount.wait_idle()
        assert os.fstat(file.fileno()).st_size == len(OLD)
        assert os.pread(file.fileno(), 100, 0) == OLD


def test_it_is_kept_over_the_death_of_the_worker(
    mount: TestMount, capabilities: list[str], objects: Path
) -> None:
    if "fuse.engine=pyfuse3" in capabilities:
        pytest.skip("what files are open does not outlive the worker on libfuse")
    content = os.urandom(300_000)
    replace(objects, "f", content)
    with (mount.root / "f").open("rb", buffering=0) as file:
        assert file.read(10) == content[:10]
        assert os.pread(file.fileno(), LARGE, 0) == content
        replace(objects, "f", NEW)
        assert (mount.root / "f").read_bytes() == NEW
        mount.wait_for_successor(mount.kill_worker())
        assert os.pread(file.fileno(), LARGE, 0) == content
        assert os.fstat(file.fileno()).st_size == len(content)
    assert (mount.root / "f").read_bytes() == NEW


@pytest.mark.parametrize("read_only", [False, True])
def test_who_reads_the_directory_meets_each_name_once(
    make_mount: MakeMount, capabilities: list[str], objects: Path, read_only: bool
) -> None:
    names = [f"n{number:03}" for number in range(300)]
    for name in names:
        (objects / name).write_bytes(OLD)
    options = [*capabilities, "volume.metadata_ttl=0.2", f"volume.read_only={read_only}"]
    root = make_mount(options=options).mount().root
    files = [(root / name).open("rb") for name in names]
    try:
        assert all(file.read() == OLD for file in files)
        seen = []
        with os.scandir(root) as entries:
            for number, entry in enumerate(entries):
                seen.append(entry.name)
                if number % 100 == 50:
                    for name in names:
                        replace(objects, name, NEW + bytes(number))
                    wait_for(lambda: all((root / name).stat().st_mtime == 1000 for name in names))
                    first = (root / names[0]).stat().st_ino
                    assert first != os.fstat(files[0].fileno()).st_ino
        assert sorted(seen) == names
        assert all(os.pread(file.fileno(), 100, 0) == OLD for file in files)
    finally:
        for file in files:
            file.close()
