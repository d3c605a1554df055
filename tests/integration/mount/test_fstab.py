"""Volumes mounted by mount(8), as from /etc/fstab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.node import registry
from tests.support.mounts import slayer, wait_for
from tests.support.servers import live_pids

pytestmark = pytest.mark.integration


@pytest.fixture
def kind() -> Iterator[str]:
    """A type of file system of this test's own, that mount(8) knows a helper for."""
    name = f"slayerfs-test-{os.getpid()}"
    helper = Path("/sbin", f"mount.{name}")
    helper.symlink_to(Path(sys.executable).with_name("mount.slayerfs"))
    yield name
    helper.unlink()


def mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mount", *arguments], capture_output=True, text=True, timeout=90, check=False
    )


def test_from_fstab(kind: str, objects: Path, tmp_path: Path) -> None:
    root = tmp_path / "mount point"
    root.mkdir()
    shown = str(root).replace(" ", r"\040")
    options = f"rw,nofail,_netdev,cache.directory={tmp_path}/cache,cache.capacity=1GiB"
    table = tmp_path / "fstab"
    table.write_text(f"file://{objects} {shown} {kind} {options} 0 0\n")
    result = mount("--fstab", str(table), str(root))
    assert (result.returncode, result.stderr) == (0, "")
    entry = registry.find(str(root))
    assert entry is not None
    live_pids.add(entry.supervisor)
    (root / "file").write_bytes(b"x")
    assert (objects / "file").read_bytes() == b"x"
    again = mount("--fstab", str(table), "--all", "--verbose")
    assert again.returncode == 0, again.stderr
    subprocess.run(["umount", str(root)], check=True, timeout=60)
    wait_for(lambda: registry.find(str(root)) is None, what="the worker's end")


def test_read_only(kind: str, objects: Path, tmp_path: Path) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    where = f"cache.directory={tmp_path}/cache,cache.capacity=1GiB"
    result = mount("-t", kind, "-o", f"ro,{where}", f"file://{objects}", str(root))
    assert result.returncode == 0, result.stderr
    entry = registry.find(str(root))
    assert entry is not None
    live_pids.add(entry.supervisor)
    with pytest.raises(OSError, match="Read-only"):
        (root / "file").write_bytes(b"x")
    slayer("umount", str(root))


def test_what_cannot_be_mounted(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "mnt"
    root.mkdir()
    result = mount("-t", kind, "-o", "noexec", f"file://{tmp_path}/objects", str(root))
    assert result.returncode == 1
    assert "mount.slayerfs: -o noexec: not known" in result.stderr
    result = mount("-t", kind, f"file://{tmp_path}/objects", str(root))
    assert result.returncode == 32
    assert "is no directory: create it" in result.stderr
    result = mount("-t", kind, "-f", f"file://{tmp_path}/objects", str(root))
    assert result.returncode == 0, result.stderr
    assert not os.path.ismount(root)
