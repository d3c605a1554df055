"""What mountinfo says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.fuse import mount

MOUNTINFO = r"""22 27 0:21 / /proc rw,nosuid - proc proc rw
36 27 0:57 / /mnt/a\040b rw,nosuid - fuse.slayerfs s3://bucket/pre\040fix rw,user_id=0
37 27 0:58 / /mnt/c rw shared:3 master:1 - fuse.slayerfs x rw
38 37 0:59 / /mnt/c rw - tmpfs tmpfs rw
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    return path


def test_entries(mountinfo: Path) -> None:
    assert mount.entries(mountinfo)[1] == mount.MountEntry(
        "/mnt/a b", "fuse.slayerfs", "s3://bucket/pre fix", 57
    )


def test_the_topmost_mount_counts(mountinfo: Path) -> None:
    assert mount.is_mounted("/mnt/a b", mountinfo)
    assert not mount.is_mounted("/mnt/c", mountinfo)
    assert not mount.is_mounted("/mnt", mountinfo)
    assert mount.find("/mnt/c", mountinfo) == mount.MountEntry("/mnt/c", "tmpfs", "tmpfs", 59)
    assert mount.find("/nowhere", mountinfo) is None
    assert mount.is_covered("/mnt/c", mountinfo)
    for path in ("/mnt/a b", "/proc", "/nowhere"):
        assert not mount.is_covered(path, mountinfo)


@pytest.mark.parametrize("odd", ["\u2028", "\x85", "\v", "\f", "\r", "\x1c", "\udcff"])
def test_what_others_mount_ends_no_line(mountinfo: Path, odd: str) -> None:
    line = f"39 27 0:60 /a{odd}b /mnt/d{odd}e rw - fuse.slayerfs s3://b/f{odd}g rw\n"
    mountinfo.write_bytes(os.fsencode(line + MOUNTINFO))
    assert len(mount.entries(mountinfo)) == 5
    assert mount.find(f"/mnt/d{odd}e", mountinfo) == mount.MountEntry(
        f"/mnt/d{odd}e", "fuse.slayerfs", f"s3://b/f{odd}g", 60
    )
    assert mount.is_mounted("/mnt/a b", mountinfo)


def test_a_mount_point_is_resolved_as_mountinfo_has_it(tmp_path: Path) -> None:
    (tmp_path / "real/mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "to-mnt").symlink_to("real/mnt")
    wanted = str((tmp_path / "real/mnt").resolve())
    assert mount.resolve(str(tmp_path / "link/mnt/")) == wanted
    assert mount.resolve(str(tmp_path / "to-mnt")) == wanted


def test_unmounting_what_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        mount.unmount(str(tmp_path))
    assert caught.value.filename == str(tmp_path)


@pytest.mark.integration  # mounts fusectl, as root
def test_aborting_a_connection_that_is_gone() -> None:
    assert not mount.abort(2**31)
