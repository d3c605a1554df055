"""The cache directory: made when absent, refused when it is something else."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from csi_slayer.cache import Cache
from csi_slayer.cache.layout import Layout, directory_name
from csi_slayer.errors import CacheError


def test_makes_private_directories(root: Path) -> None:
    Layout(root)
    for path in (root, root / "segments", root / "segments" / "a", root / "staging"):
        assert path.stat().st_mode & 0o7777 == 0o700


def test_opens_an_existing_one_again(root: Path) -> None:
    Layout(root)
    Layout(root)


def test_a_fresh_file_system_is_taken(root: Path) -> None:
    (root / "lost+found").mkdir(parents=True)
    Layout(root)


def test_refuses_another_layout(root: Path) -> None:
    Layout(root)
    (root / "layout").write_text("slayerfs cache layout 99\n")
    with pytest.raises(CacheError, match="layout 99"):
        Layout(root)


@pytest.mark.parametrize("left", [b"", bytes(24)])
def test_a_marker_that_a_power_loss_emptied_is_written_anew(root: Path, left: bytes) -> None:
    """Mounts were refused with "has layout ''" although all else was there."""
    Layout(root)
    written = (root / "layout").read_bytes()
    (root / "staging" / "v").mkdir()
    (root / "layout").write_bytes(left)
    Layout(root)
    assert (root / "layout").read_bytes() == written


def test_a_directory_without_content_but_a_marker_is_taken(root: Path) -> None:
    """The power was lost just after it was marked."""
    root.mkdir()
    (root / "layout").touch()
    Layout(root)
    assert (root / "segments").is_dir()


def test_an_empty_file_of_that_name_makes_nothing_ours(root: Path) -> None:
    root.mkdir()
    (root / "layout").touch()
    (root / "thesis.tex").touch()
    with pytest.raises(CacheError, match="layout ''"):
        Layout(root)
    assert (root / "layout").read_bytes() == b""


def test_the_marker_survives_a_power_loss(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content is on the disk before it has its name, and the name before it is relied on."""
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{fd}"), (root / "layout").exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    Layout(root)
    (file, named), directory = synced
    assert file.startswith(str(root / "layout.")) and not named
    assert directory == (str(root), True)


def test_what_is_in_it_is_its_owners_alone_whatever_the_umask(root: Path) -> None:
    """Catalogs were in a directory that was made in passing: anybody could put others there."""
    root.mkdir()
    mask = os.umask(0)
    try:
        Layout(root)
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.iterdir() if path.is_dir()}
    assert modes == dict.fromkeys(("segments", "staging", "conflicts", "volumes"), 0o700)


def test_refuses_a_directory_of_somebody_else(root: Path) -> None:
    root.mkdir()
    (root / "thesis.tex").write_text("x")
    with pytest.raises(CacheError, match=r"thesis\.tex"):
        Layout(root)
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]


def test_a_root_that_cannot_be_made_is_a_cache_error(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(CacheError, match="cache directory"):
        Cache(root, 1 << 20)


@pytest.mark.integration  # as root
def test_uses_trusted_attributes_where_user_ones_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.setxattr

    def setxattr(path: Any, name: str, value: bytes) -> None:
        if name.startswith("user."):
            raise OSError(errno.ENOTSUP, "Operation not supported")
        real(path, name, value)

    monkeypatch.setattr(os, "setxattr", setxattr)
    assert Layout(root).xattr == "trusted.slayerfs"


def test_without_attributes_the_error_says_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setxattr(*_arguments: Any) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", setxattr)
    with pytest.raises(CacheError, match="extended attributes"):
        Layout(root)


@pytest.mark.parametrize(
    ("volume", "name"),
    [
        ("pvc-1", "pvc-1"),
        ("a/b", "a%2Fb"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("é", "%C3%A9"),
    ],
)
def test_a_volume_id_names_one_directory(volume: str, name: str) -> None:
    assert directory_name(volume) == name


@pytest.mark.parametrize("volume", ["", "x" * 201])
def test_impossible_volume_ids_are_refused(volume: str) -> None:
    with pytest.raises(CacheError):
        directory_name(volume)


def test_a_file_system_of_whole_seconds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ext4 with inodes of 128 bytes: two writes within a second could not be told apart."""
    utime = os.utime

    def coarse(path: Path, *, ns: tuple[int, int]) -> None:
        utime(path, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    monkeypatch.setattr(os, "utime", coarse)
    with pytest.raises(CacheError, match="keeps no times of nanoseconds"):
        Layout(tmp_path)


def test_directories_of_volumes_are_spread_over_an_ext4_disk(root: Path) -> None:
    """In the group of what was just deleted a file takes ten times as long to make."""
    layout = Layout(root)
    shown = subprocess.run(
        ["lsattr", "-d", layout.segments, root / "staging"], capture_output=True, text=True
    )
    if shown.returncode:
        pytest.skip("the file system has no such attributes")
    assert [line.split()[0].count("T") for line in shown.stdout.splitlines()] == [1, 1]
