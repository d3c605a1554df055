"""What a user who is not root mounts, by fusermount3."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import CLI, TestMount, slayer

pytestmark = pytest.mark.integration

NOBODY = 65534

# In a mount namespace of its own, so that the device is what it is on most machines: for all.
# The capability is for the interpreter alone, which may be in a directory of root's: who executes
# a set-uid program loses it.
ENTER = f"""
mknod "$PLACE/fuse" c 10 229 && chmod 666 "$PLACE/fuse" && mount --bind "$PLACE/fuse" /dev/fuse
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=+dac_read_search \\
    --ambient-caps=+dac_read_search bash -eu -c "$SCRIPT"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that the user can reach."""
    with tempfile.TemporaryDirectory(prefix="slayerfs-user-") as directory:
        os.chmod(directory, 0o755)
        for name in ("objects", "mnt", "home"):
            path = Path(directory, name)
            path.mkdir()
            os.chown(path, NOBODY, NOBODY)
        yield Path(directory)


def as_user(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    """``slayer`` is the command. Whatever happens, nothing stays mounted."""
    known = f"""
        slayer() {{ {shlex.join(CLI)} "$@"; }}
        cd {place}
        trap 'slayer umount --force mnt > /dev/null 2>&1 || true' EXIT
    """
    return subprocess.run(
        ["unshare", "--mount", "bash", "-eu", "-c", ENTER],
        env={name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        | {"PLACE": str(place), "SCRIPT": known + script, "HOME": f"{place}/home"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["native", "pyfuse3"])
def test_a_user_mounts_what_is_his(place: Path, engine: str) -> None:
    done = as_user(
        place,
        f"""
        slayer mount "file://$PWD/objects" mnt -o fuse.engine={engine}
        grep " $PWD/mnt .*nosuid,nodev.* fuse.slayerfs file://$PWD/objects " /proc/self/mountinfo
        echo hello > mnt/file
        stat -c '%u %g' mnt/file
        exec 5< mnt/file
        slayer umount mnt 2>&1 && exit 7
        exec 5<&-
        slayer umount mnt
        slayer mount "file://$PWD/objects" mnt --read-only -o fuse.engine={engine}
        cat mnt/file
        ! touch mnt/other
        fusermount3 -u mnt
        """,
    )
    assert done.returncode == 0, done.stdout
    assert f"{NOBODY} {NOBODY}\n" in done.stdout
    assert f"{place}/mnt is in use" in done.stdout
    assert "hello\n" in done.stdout
    assert (place / "objects/file").read_text() == "hello\n"


def test_a_user_s_mount_survives_its_worker(place: Path) -> None:
    done = as_user(
        place,
        """
        slayer mount "file://$PWD/objects" mnt
        exec 5> mnt/file
        echo one >&5
        for _ in 1 2; do
            kill -9 "$(slayer status mnt --json | grep -o '"pid": [0-9]*' | cut -d' ' -f2)"
            echo more >&5
        done
        exec 5>&-
        slayer status mnt
        slayer umount mnt
        """,
    )
    assert done.returncode == 0, done.stdout
    assert "2 restarts" in done.stdout
    assert (place / "objects/file").read_text() == "one\nmore\nmore\n"


def test_what_fusermount_refuses_is_said(place: Path) -> None:
    (place / "root-s").mkdir()
    done = as_user(place, 'slayer mount "file://$PWD/objects" root-s')
    assert done.returncode == 1
    assert "user has no write access to mountpoint" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("force", ["", "--force"])
def test_a_user_cannot_unmount_what_is_root_s(place: Path, volume: TestMount, force: str) -> None:
    done = as_user(place, f"slayer umount {force} {volume.root}")
    assert done.returncode == 1
    assert done.stdout == f"csi-slayer: cannot unmount {volume.root}: Operation not permitted\n"
    assert str(volume.root) in slayer("status").stdout
