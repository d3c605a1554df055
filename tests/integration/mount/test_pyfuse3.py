"""Volumes on the engine on libfuse, whose mounts end with their worker."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.fuse import mount as mounts
from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import TestMount, slayer, wait_for

pytest.importorskip("pyfuse3")
pytestmark = pytest.mark.integration

ENGINE = "fuse.engine=pyfuse3"


@contextlib.contextmanager
def no_new_worker(volume: TestMount) -> Iterator[None]:
    """The supervisor does not see what happens until the block ends."""
    supervisor = volume.entry()["supervisor"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(supervisor, signal.SIGCONT)


def is_reachable(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def test_after_a_killed_worker_the_volume_is_mounted_anew(
    make_mount: MakeMount, objects: Path
) -> None:
    volume = make_mount(options=[ENGINE, "volume.durability=writeback"]).mount()
    path = volume.root / "file"
    path.write_bytes(b"acknowledged")
    for restarts in (1, 2):
        fd = os.open(path, os.O_RDONLY)
        with no_new_worker(volume):
            volume.kill_worker()
            with pytest.raises(OSError) as caught:
                os.fsync(fd)
            with contextlib.suppress(OSError):  # closing is a request, too
                os.close(fd)
            assert volume.mounted, "nobody can write below the mount point meanwhile"
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        wait_for(lambda: is_reachable(path), what="the new mount")
        assert path.read_bytes() == b"acknowledged"
        assert volume.ask_status()["restarts"] == restarts
    wait_for(
        lambda: volume.log.count("open files got errors; mounting anew") == 2,
        what="a line about each",
    )
    volume.umount()
    assert (objects / "file").read_bytes() == b"acknowledged"
    assert not volume.mounted


def test_a_volume_that_is_unmounted_after_its_worker_died_stays_unmounted(
    make_mount: MakeMount, objects: Path
) -> None:
    volume = make_mount(options=[ENGINE, "volume.durability=writeback"]).mount()
    (volume.root / "file").write_bytes(b"acknowledged")
    supervisor = Path(f"/proc/{volume.entry()['supervisor']}")
    with no_new_worker(volume):
        volume.kill_worker()
        mounts.unmount(str(volume.root))
    wait_for(lambda: not supervisor.exists(), what="the supervisor's end")
    assert (objects / "file").read_bytes() == b"acknowledged"
    assert not volume.mounted


def test_capabilities_cannot_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "objects").mkdir()
    result = slayer(
        "mount", f"file://{tmp_path}/objects", str(tmp_path / "mnt"),
        "--cache-dir", str(tmp_path / "cache"), "-o", ENGINE, "-o", "fuse.disable=splice",
        check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "fuse.disable does not work" in " ".join((result.stdout + result.stderr).split())
