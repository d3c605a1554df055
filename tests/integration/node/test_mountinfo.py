"""Mount points with odd names are found as the kernel writes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from csi_slayer.fuse import mount as mounts

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "name", ["plain", "a b", "a\\040b", "tab\tnew\nline", "#hash", "ünï", "a "]
)
def test_a_mount_point_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    target = tmp_path.resolve() / name
    target.mkdir()
    assert mounts.find(str(target)) is None
    subprocess.run(["mount", "-t", "tmpfs", "odd", str(target)], check=True)
    try:
        found = mounts.find(str(target))
        assert found is not None
        assert (found.mountpoint, found.fstype, found.source) == (str(target), "tmpfs", "odd")
        assert found in mounts.entries()
    finally:
        subprocess.run(["umount", str(target)], check=True)
