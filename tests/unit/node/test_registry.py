"""The registry of mounts: small files that anybody may read and a crash may damage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csi_slayer.cache.layout import Layout
from csi_slayer.config import MountConfig
from csi_slayer.errors import ConfigError
from csi_slayer.node import registry
from csi_slayer.node.registry import Mounted

USER = os.geteuid() or 1000
"""Somebody who is not root."""


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "run_directory", lambda: tmp_path)
    return tmp_path


def entry(volume: str = "v1", mountpoint: str = "/mnt") -> Mounted:
    return Mounted(volume, "s3://bucket", mountpoint, 42, f"/run/{volume}.sock", "/state", "/cache")


def test_what_is_written_is_found() -> None:
    registry.write(entry("v1", "/one"))
    registry.write(entry("v2", "/two"))
    assert list(registry.mounts()) == [entry("v1", "/one"), entry("v2", "/two")]
    assert registry.find("/two") == entry("v2", "/two")
    assert registry.find("/three") is None


def test_writing_again_replaces(run_directory: Path) -> None:
    registry.write(entry("v1", "/one"))
    registry.write(entry("v1", "/other"))
    assert list(registry.mounts()) == [entry("v1", "/other")]
    assert [path.name for path in run_directory.iterdir()] == ["v1.json"]


def test_of_a_mount_point_the_last_volume_counts(run_directory: Path) -> None:
    for number, volume in enumerate(("v2", "v3", "v1")):
        registry.write(entry(volume))
        os.utime(run_directory / f"{volume}.json", ns=(number, number))
    assert registry.find("/mnt") == entry("v1")
    assert [each.volume for each in registry.mounts()] == ["v2", "v3", "v1"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b'{"volume": "x"}', b"\xff\xfe"])
def test_a_damaged_entry_is_skipped(run_directory: Path, content: bytes) -> None:
    registry.write(entry())
    (run_directory / "a.json").write_bytes(content)
    assert list(registry.mounts()) == [entry()]


def test_removing_takes_the_socket_away_and_may_be_repeated(run_directory: Path) -> None:
    registry.write(entry())
    registry.control_path("v1").touch()
    registry.remove("v1")
    registry.remove("v1")
    assert list(run_directory.iterdir()) == []


def test_users_have_a_directory_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert registry.run_directory() == tmp_path / "slayerfs"
    assert (tmp_path / "slayerfs").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.run_directory() == tmp_path / ".cache/slayerfs-run"


@pytest.mark.parametrize("link", [False, True])
def test_a_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    """Where that is /tmp anybody may have made it: what is in it says which process to end."""
    monkeypatch.undo()
    place = tmp_path / "slayerfs"
    if link:
        place.symlink_to(tmp_path)
    else:
        place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, USER + 1, -1, follow_symlinks=False)
    monkeypatch.setattr(os, "geteuid", lambda: USER if place.lstat().st_uid != USER else USER + 1)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="belongs to another user"):
        registry.run_directory()


def test_a_user_without_a_directory_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory: name a directory of yours"):
        registry.run_directory()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(Path, "home", _no_home)
    with pytest.raises(ConfigError, match="no home directory"):
        registry.run_directory()


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_the_default_cache_can_begin_after_the_run_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    registry.run_directory()
    config = MountConfig.model_validate({"store": {"url": "s3://bucket"}})
    Layout(config.cache.directory)
