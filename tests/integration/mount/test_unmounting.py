"""``csi-slayer umount`` while the store does not take what is pending, and the mount after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked
from tests.integration.mount.s3volumes import s3_volume
from tests.support.faultproxy import FaultProxy
from tests.support.faults import Status
from tests.support.mounts import CLI, TestMount, slayer, wait_for
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration

NAMES = {f"f{number}": os.urandom(1000 * number) for number in range(1, 5)}


class Refusing:
    """A mounted volume with staged files that the store does not take for now."""

    def __init__(self, server: S3Server, base: Path, proxy: FaultProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.bucket = server.create_bucket()
        self.mount = s3_volume(
            server, self.bucket, base, endpoint=proxy.endpoint,
            options=["volume.durability=writeback"],
        )  # fmt: skip
        self.mount.mount()
        self.proxy.inject(Status(403, "AccessDenied"), kind="PutObject")
        for name, data in NAMES.items():
            (self.mount.root / name).write_bytes(data)
        self.state = Path(self.mount.entry()["state"])

    @property
    def served(self) -> bool:
        return bool(is_locked(str(self.state)))

    def stored(self) -> dict[str, bytes]:
        admin = self.server.admin
        return {key: admin.get(self.bucket, key) for key in admin.keys(self.bucket)}

    @property
    def arguments(self) -> list[str]:
        """Of the command that mounts it."""
        options = [part for option in self.mount.options for part in ("-o", option)]
        where = ["--cache-dir", str(self.mount.cache), "--cache-capacity", "4GiB"]
        return [self.mount.url, str(self.mount.root), *where, *options]

    def umount(self, *options: str) -> str:
        return slayer("umount", str(self.mount.root), *options).stdout


@pytest.fixture
def refusing(versitygw: S3Server, tmp_path: Path) -> Iterator[Refusing]:
    with FaultProxy(versitygw.endpoint) as proxy:
        made = Refusing(versitygw, tmp_path, proxy)
        yield made
        if made.served:
            made.umount("--force")
        assert not made.served


def goes_on(refusing: Refusing) -> None:
    """The volume mounted again has everything, and the store soon, too."""
    refusing.proxy.heal()
    refusing.mount.mount()
    for name, data in NAMES.items():
        assert (refusing.mount.root / name).read_bytes() == data
    refusing.mount.wait_idle()
    assert refusing.stored() == NAMES
    refusing.mount.umount()


def test_the_timeout_is_what_it_takes(refusing: Refusing) -> None:
    """Not until the store takes what is pending: it never does."""
    said = refusing.umount("--timeout", "3")
    assert "is unmounted" in said
    assert "4 keys are still to be uploaded: the worker goes on" in said
    assert "to finish: mount s3://" in said
    assert f"rm -r {refusing.state} {refusing.mount.cache}/staging/" in said
    assert refusing.served and not refusing.mount.mounted
    refusing.proxy.heal()
    # The pause before it tries again has become longer each time.
    wait_for(lambda: not refusing.served, 90, what="the worker's end")
    assert refusing.stored() == NAMES


def test_a_mount_takes_over_from_a_worker_that_still_uploads(refusing: Refusing) -> None:
    refusing.umount("--timeout", "0")
    first = registry.find(str(refusing.mount.root))
    assert first is not None and refusing.served
    goes_on(refusing)


def test_what_still_uploads_goes_on_if_the_store_does_not_answer_the_next_mount(
    refusing: Refusing,
) -> None:
    refusing.umount("--timeout", "0")
    refusing.proxy.inject(Status(503, "SlowDown"))
    result = slayer("mount", *refusing.arguments, env=refusing.mount.env, check=False)
    assert result.returncode == 1
    assert "503" in result.stderr
    assert refusing.served
    refusing.proxy.heal()
    wait_for(lambda: not refusing.served, 90, what="the worker's end")
    assert refusing.stored() == NAMES


def test_a_mount_takes_over_from_a_worker_that_hangs(refusing: Refusing) -> None:
    worker = refusing.mount.worker_pid()
    refusing.umount("--timeout", "0")
    os.kill(worker, signal.SIGSTOP)
    goes_on(refusing)


def test_force_ends_the_worker_and_keeps_what_is_staged(refusing: Refusing) -> None:
    said = refusing.umount("--force")
    assert "4 keys are not uploaded yet, and staged in" in said
    assert not refusing.served
    assert registry.find(str(refusing.mount.root)) is None
    assert refusing.stored() == {}
    goes_on(refusing)


def test_force_ends_a_worker_that_was_left_to_upload(refusing: Refusing) -> None:
    refusing.umount("--timeout", "0")
    assert refusing.served
    assert "4 keys are not uploaded yet" in refusing.umount("--force")
    assert not refusing.served


def test_what_is_to_be_discarded_is_as_it_was_said(refusing: Refusing) -> None:
    said = refusing.umount("--force")
    (line,) = (line for line in said.splitlines() if line.startswith("to discard"))
    for path in line.partition("rm -r ")[2].split():
        assert Path(path).is_dir()
        assert str(refusing.mount.cache) in path


def test_another_volume_at_the_same_place(refusing: Refusing, tmp_path: Path) -> None:
    """The commands mean what is mounted there, not what still uploads."""
    refusing.umount("--timeout", "0")
    (tmp_path / "objects").mkdir()
    other = TestMount(f"file://{tmp_path}/objects", tmp_path, cache=tmp_path / "other cache")
    other.mount()
    assert other.status()["url"] == other.url
    assert "files," in slayer("warm", str(other.root)).stdout
    (other.root / "file").write_bytes(b"content")
    other.umount()
    assert (tmp_path / "objects/file").read_bytes() == b"content"
    assert refusing.served and registry.find(str(other.root)) is not None


def test_a_signal_to_what_still_uploads_is_none_to_what_is_there_now(
    refusing: Refusing, tmp_path: Path
) -> None:
    supervisor = refusing.mount.entry()["supervisor"]
    refusing.umount("--timeout", "0")
    (tmp_path / "objects").mkdir()
    other = TestMount(f"file://{tmp_path}/objects", tmp_path, cache=tmp_path / "other cache")
    other.mount()
    os.kill(supervisor, signal.SIGTERM)
    wait_for(lambda: not refusing.served, what="the end of the first one")
    (other.root / "file").write_bytes(b"content")
    other.umount()
    assert (tmp_path / "objects/file").read_bytes() == b"content"
    goes_on(refusing)


def test_what_a_dead_volume_left_is_told_when_another_one_takes_its_place(
    refusing: Refusing, tmp_path: Path
) -> None:
    (tmp_path / "objects").mkdir()
    other = TestMount(f"file://{tmp_path}/objects", tmp_path, cache=tmp_path / "other cache")
    entry, worker = refusing.mount.entry(), refusing.mount.worker_pid()
    for pid in (entry["supervisor"], worker):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not refusing.served, what="their end")
    said = slayer("mount", other.url, str(other.root), "--cache-dir", str(other.cache)).stdout
    assert "4 keys are not uploaded yet" in said
    assert f"to finish: mount {refusing.mount.url} at" in said
    shown = json.loads(slayer("status", "--json").stdout)
    assert {refusing.mount.url, other.url} <= {volume["url"] for volume in shown}
    other.umount()
    goes_on(refusing)


def test_a_mounted_volume_is_not_taken_over(refusing: Refusing) -> None:
    """The worker itself says no."""
    result = slayer("mount", refusing.mount.url, str(refusing.mount.root), check=False)
    assert result.returncode == 1 and "is a mount point already" in result.stderr
    refusing.proxy.heal()
    refusing.mount.umount()


def test_a_second_signal_ends_a_mount_in_the_foreground(
    versitygw: S3Server, tmp_path: Path
) -> None:
    """The first one unmounts; then it uploads, and would for an hour."""
    bucket = versitygw.create_bucket()
    root = tmp_path / "mnt"
    root.mkdir()
    with FaultProxy(versitygw.endpoint) as proxy, (tmp_path / "out").open("wb") as out:
        keys = {
            "AWS_ACCESS_KEY_ID": versitygw.access_key,
            "AWS_SECRET_ACCESS_KEY": versitygw.secret_key,
        }
        process = subprocess.Popen(
            [*CLI, "mount", f"s3://{bucket}", str(root), "--cache-dir", str(tmp_path / "cache"),
             "--endpoint", proxy.endpoint, "--region", versitygw.region,
             "--durability", "writeback", "--foreground"],
            stdout=out, stderr=out, start_new_session=True, env={**os.environ, **keys},
        )  # fmt: skip
        wait_for(lambda: os.path.ismount(root) or process.poll() is not None, what="a mount")
        proxy.inject(Status(403, "AccessDenied"), kind="PutObject")
        (root / "file").write_bytes(b"content")
        process.send_signal(signal.SIGINT)
        wait_for(lambda: not os.path.ismount(root), what="the unmount")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "out").read_text()


def test_a_mount_whose_run_directory_was_emptied_is_found_again(refusing: Refusing) -> None:
    """It goes with the last session of its user; the mount and its uploads do not."""
    mount = refusing.mount
    before = mount.entry()
    for name in ("json", "sock"):
        (registry.run_directory() / f"{before['volume']}.{name}").unlink()
    wait_for(lambda: registry.find(str(mount.root)), what="the entry")
    assert mount.entry() == before
    wait_for(lambda: Path(before["control"]).exists(), what="the control socket")
    said = slayer("umount", str(mount.root), "--timeout", "1").stdout
    assert f"{len(NAMES)} keys are still to be uploaded" in " ".join(said.split())
