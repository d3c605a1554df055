"""How fusermount3 is asked, and what it says."""

from __future__ import annotations

import errno
import os
import sys
from ast import literal_eval
from pathlib import Path

import pytest

from csi_slayer.fuse import fusermount

SENDS = f"""#!{sys.executable}
import os, socket, sys
print(sys.argv[1:], file=open(os.environ["ASKED"], "w"))
end = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
socket.send_fds(end, [b"x"], [0])
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    path = tmp_path / "fusermount3"
    path.write_text(SENDS)
    path.chmod(0o755)
    return path


def says(program: Path, words: str) -> None:
    program.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")


def test_the_descriptor_that_it_sends(program: Path, tmp_path: Path) -> None:
    fd = fusermount.mount("/mnt", r"s3://b/a,b\c", read_only=True, allow_other=False)
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    os.close(fd)
    asked = literal_eval((tmp_path / "asked").read_text())
    assert asked == [
        "-o",
        r"fsname=s3://b/a\,b\\c,subtype=slayerfs,nosuid,nodev,default_permissions,ro",
        "--",
        "/mnt",
    ]


def test_what_it_says_when_it_refuses(program: Path) -> None:
    says(program, "fusermount3: user has no write access to mountpoint /mnt")
    with pytest.raises(OSError, match="user has no write access") as caught:
        fusermount.mount("/mnt", "x", read_only=False, allow_other=False)
    assert caught.value.errno == errno.EPERM
    program.write_text("#!/bin/sh\n")
    with pytest.raises(OSError, match="sent no descriptor"):
        fusermount.mount("/mnt", "x", read_only=False, allow_other=False)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("fusermount3: failed to unmount /mnt: Device or resource busy", errno.EBUSY),
        ("fusermount3: entry for /mnt not found in /etc/mtab", errno.EPERM),
    ],
)
def test_unmounting(program: Path, words: str, number: int) -> None:
    says(program, words)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        fusermount.unmount("/mnt", lazy=False)
    assert caught.value.errno == number


def test_it_is_for_who_is_not_root(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert fusermount.is_needed()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not fusermount.is_needed()
    program.unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not fusermount.is_needed()
