"""Names that change under open files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.test_posix import renameat2

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MIB = 1 << 20


def test_an_unlinked_cold_file_stays_readable(make_mount: MakeMount, objects: Path) -> None:
    data = os.urandom(40 * MIB)
    (objects / "f").write_bytes(data)
    mount = make_mount(options=["volume.prefetch=false"]).mount()
    with (mount.root / "f").open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 4096, 0) == data[:4096]
        (mount.root / "f").unlink()
        assert not (mount.root / "f").exists()
        time.sleep(0.3)  # not to wait for something: to let the store follow, if it did
        got = b"".join(os.pread(file.fileno(), MIB, place) for place in range(0, len(data), MIB))
        assert got == data
        (mount.root / "f").write_bytes(b"another")
        assert os.pread(file.fileno(), 4096, 30 * MIB) == data[30 * MIB : 30 * MIB + 4096]
    mount.wait_idle()
    assert (objects / "f").read_bytes() == b"another"
    left = [p for p in objects.rglob("*") if p.is_file() and "/.slayerfs/" in str(p)]
    assert left == []


def test_a_directory_with_open_files_is_renamed(make_mount: MakeMount, objects: Path) -> None:
    (objects / "old/sub").mkdir(parents=True)
    for number in range(2000):
        (objects / f"old/{'sub/' * (number % 2)}f{number}").write_bytes(b"%d" % number)
    mount = make_mount().mount()
    root = mount.root
    readers = [(root / f"old/f{number}").open("rb", buffering=0) for number in (0, 998, 1998)]
    with (root / "old/sub/f1").open("ab", buffering=0) as writer:
        (root / "old").rename(root / "new")
        assert [reader.read() for reader in readers] == [b"0", b"998", b"1998"]
        writer.write(b" more")
    for reader in readers:
        reader.close()
    assert sorted(os.listdir(root)) == ["new"]
    assert len(os.listdir(root / "new")) == 1001
    assert (root / "new/sub/f1").read_bytes() == b"1 more"
    mount.wait_idle(300)  # a copy and a deletion for each of the files
    found = {str(p.relative_to(objects)) for p in objects.rglob("*") if p.is_file()}
    found = {name for name in found if not name.startswith(".slayerfs")}
    assert found == {f"new/{'sub/' * (number % 2)}f{number}" for number in range(2000)}
    assert (objects / "new/sub/f1").read_bytes() == b"1 more"
    assert (objects / "new/f1998").read_bytes() == b"1998"


def test_directories_are_exchanged(make_mount: MakeMount, objects: Path) -> None:
    for top in ("a", "b"):
        (objects / top / "s").mkdir(parents=True)
        for number in range(20):
            (objects / top / f"s/{number}").write_text(f"{top}{number}")
    (objects / "b/only").write_text("b")
    mount = make_mount().mount()
    renameat2(mount.root / "a", mount.root / "b", 2)
    assert (mount.root / "a/only").read_text() == "b"
    assert (mount.root / "b/s/7").read_text() == "a7"
    mount.wait_idle()
    for top, other in (("a", "b"), ("b", "a")):
        for number in range(20):
            assert (objects / top / f"s/{number}").read_text() == f"{other}{number}"
    assert (objects / "a/only").read_text() == "b"
    assert not (objects / "b/only").exists()
