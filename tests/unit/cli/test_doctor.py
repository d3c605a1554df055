"""Each finding of the doctor, and what it says to do."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from csi_slayer.cli import doctor
from csi_slayer.cli.machine import Finding
from csi_slayer.config import load_config


def levels(findings: list[Finding]) -> list[str]:
    for finding in findings:
        assert finding.level == "ok" or finding.mend, f"nothing to do about: {finding.text}"
    return [finding.level for finding in findings]


def test_a_cache_directory_that_is_not_there_yet(tmp_path: Path) -> None:
    findings = list(doctor.check_cache(tmp_path / "a" / "b"))
    assert "bad" not in levels(findings)
    assert list(tmp_path.iterdir()) == [], "looking leaves nothing"


def test_a_cache_directory_that_cannot_be_looked_at(tmp_path: Path) -> None:
    (finding,) = doctor.check_cache(tmp_path / ("n" * 300) / "cache")
    assert finding.level == "bad"
    assert finding.text.endswith("cache: File name too long")


def test_a_link_of_somebody_else_is_not_followed(tmp_path: Path) -> None:
    """Of a cache directory that is not there yet the one above is tried, which may be /tmp: root
    made an empty file wherever a link of the name pointed that was tried."""
    (tmp_path / f".slayerfs-doctor-{os.getpid()}").symlink_to(tmp_path / "made")
    assert set(levels(list(doctor.check_cache(tmp_path / "later")))) <= {"ok", "note"}
    assert not (tmp_path / "made").exists()


def test_a_cache_directory_without_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setxattr(*_args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "setxattr", setxattr)
    assert levels(list(doctor.check_cache(tmp_path)))[-1] == "bad"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mounts", "level"),
    [
        ([("/", "ext4")], "ok"),
        ([("/", "overlay")], "note"),
        ([("/", "overlay"), ("/DIR", "xfs")], "ok"),
        ([("/", "ext4"), ("/DIR", "nfs4")], "note"),
        ([("/", "ext4"), ("/DIR", "fuse.sshfs")], "note"),
        ([("/", "ext4"), ("/DIR", "ext4"), ("/DIR", "overlay")], "note"),
        ([("/", "ext4"), ("/DIRECTLY", "overlay")], "ok"),
    ],
)
def test_the_file_system_of_the_cache(
    tmp_path: Path, mounts: list[tuple[str, str]], level: str
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    lines = [
        f"{30 + n} 1 8:{n} / {point.replace('/DIR', str(cache))} rw - {fstype} /dev/x rw"
        for n, (point, fstype) in enumerate(mounts)
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines) + "\n")
    found = doctor._check_file_system(cache, tmp_path / "mountinfo")
    assert levels([found]) == [level]


@pytest.mark.parametrize("below", ["", "cache"])
def test_a_cache_directory_that_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    (finding,) = doctor.check_cache(tmp_path / "file" / below)
    assert levels([finding]) == ["bad"]
    assert f"{tmp_path}/file is not a directory" in finding.text
    assert "mkdir" not in finding.mend


def test_a_cache_directory_on_a_file_system_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    (finding,) = doctor.check_cache(tmp_path / "cache")
    assert levels([finding]) == ["bad"]
    assert "read-only file system" in finding.text


def test_a_disk_without_room_is_not_one_without_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_how: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    *_, finding = doctor.check_cache(tmp_path)
    assert levels([finding]) == ["bad"]
    assert "No space left" in finding.text
    assert "attributes" not in finding.text
    assert "room" in finding.mend


def test_a_cache_directory_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_args: False)
    assert levels(list(doctor.check_cache(tmp_path))) == ["bad"]


def test_stores(tmp_path: Path) -> None:
    there = load_config(None, {"store.url": f"file://{tmp_path}"})
    assert levels(asyncio.run(doctor.check_store(there))) == ["ok", "ok"]
    read_only = load_config(None, {"store.url": f"file://{tmp_path}", "volume.read_only": True})
    assert levels(asyncio.run(doctor.check_store(read_only))) == ["ok"]
    missing = load_config(None, {"store.url": f"file://{tmp_path}/missing"})
    (finding,) = asyncio.run(doctor.check_store(missing))
    assert finding.level == "bad"
    assert "missing" in finding.text
    assert [path for path in tmp_path.rglob("*doctor*") if path.is_file()] == []
