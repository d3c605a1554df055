"""Starting on what an earlier node service left, in whatever state."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from csi_slayer.fuse import mount as mounts
from csi_slayer.node.records import mark
from tests.integration.node.loads import s3_store
from tests.support.faultproxy import FaultProxy
from tests.support.mounts import wait_for
from tests.support.nodes import Refused, TestNode, node_at
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def write(path: Path, text: str) -> None:
    """In a process of its own: one that has a file of a mount open cannot start another while
    nobody serves the mount."""
    subprocess.run(["sh", "-c", f"printf %s '{text}' > '{path}'"], check=True, timeout=60)


def lose_everything(node: TestNode) -> None:
    """As a loss of power: no process, no mount, the disk as it is."""
    node.kill()  # first: it would start others
    node.kill_workers()
    node.kill_keeper()
    for entry in reversed(mounts.entries()):
        if entry.mountpoint.startswith(str(node.base)):
            mounts.unmount(entry.mountpoint, lazy=True)
    assert node.mounts() == []


def test_an_orderly_end_leaves_mounts_to_the_successor(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    write(path / "file", "text")
    node.stop()
    assert str(path) in node.mounts()
    node.start()
    assert (path / "file").read_text() == "text"
    assert node.unpublish("volume", "a") == ["volume"]
    assert node.mounts() == []


def test_targets_are_known_to_the_successor(node: TestNode, url: str) -> None:
    for pod in ("a", "b"):
        node.publish("volume", pod, url)
    node.kill()
    node.start()
    assert node.unpublish("volume", "a") == []
    assert (node.target("b")).is_dir()
    node.publish("volume", "b", url)
    assert node.unpublish("volume", "b") == ["volume"]
    assert node.mounts() == node.records() == []


def lose_the_connection(node: TestNode) -> None:
    """Node service and keeper die together, and both are started again."""
    node.kill()  # first: it would start other workers
    node.kill_workers()
    node.kill_keeper()
    node.start_keeper()
    node.start()


def test_dead_mounts_are_ended_and_nobody_hangs(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    write(path / "file", "text")
    lose_the_connection(node)
    assert node.records() == [] and list((node.run / "mounts").iterdir()) == []
    # What the kubelet does for a pod that still is there (requiresRepublish).
    node.publish("volume", "a", url)
    assert node.mounts().count(str(path)) == 1
    assert (path / "file").read_text() == "text"
    node.unpublish("volume", "a")
    assert not path.exists()


def test_nothing_is_written_where_a_mount_is_dead(node: TestNode, url: str) -> None:
    """A bare directory would take it, and nobody would ever upload it."""
    path = node.publish("volume", "a", url)
    lose_the_connection(node)
    assert node.mounts() == [str(path)]
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        (path / "file").write_text("text")
    assert node.unpublish("volume", "a") == []
    assert node.mounts() == [] and not path.exists()


def test_without_a_keeper_mounts_outlive_their_workers_only(tmp_path: Path, url: str) -> None:
    with node_at(tmp_path, keeper=False) as node:
        path = node.publish("volume", "a", url)
        write(path / "file", "text")
        node.kill_workers()
        assert (path / "file").read_text() == "text"
        assert "slayerfs_node_keeper_connected 0" in node.call("metrics")
        node.kill()
        node.start()
        assert node.mounts() == [str(path)]
        wait_for(lambda: node.log.read_text().count("keeper_absent") == 2, what="a log line")
        node.start_keeper()
        node.wait_for_keeper(there=True)
        node.publish("volume", "a", url)
        node.kill()
        node.start()
        assert (path / "file").read_text() == "text"
        node.unpublish("volume", "a")


def test_a_mount_that_was_unmounted_meanwhile_is_finished(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    write(path / "file", "text")
    node.kill()
    for entry in reversed(mounts.entries()):
        if entry.mountpoint.startswith(str(node.base)):
            mounts.unmount(entry.mountpoint, lazy=True)
    node.start()
    wait_for(lambda: node.records() == [], what="an end of the worker")
    node.publish("volume", "a", url)
    assert (path / "file").read_text() == "text"
    node.unpublish("volume", "a")


def test_damaged_records_do_no_harm(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    write(path / "file", "text")
    node.kill()
    (record,) = (node.run / "volumes").iterdir()
    record.write_text("{")
    (node.run / "volumes/other.json").write_text('["nonsense"]')
    node.start()
    assert (path / "file").read_text() == "text"
    node.unpublish("volume", "a")
    assert node.records() == []


def test_a_pod_that_came_while_the_disk_was_full_keeps_its_volume(node: TestNode, url: str) -> None:
    """The record on the disk does not have it, that of the keeper does."""
    node.publish("volume", "a", url)
    (record,) = (node.run / "volumes").iterdir()
    in_the_way = record.with_suffix(".tmp")
    in_the_way.mkdir()
    path = node.publish("volume", "b", url)
    node.kill()
    in_the_way.rmdir()
    node.start()
    assert node.unpublish("volume", "a") == []
    write(path / "file", "text")
    assert node.unpublish("volume", "b") == ["volume"]
    assert node.records() == []


@pytest.fixture
def proxy(versitygw: S3Server) -> Iterator[FaultProxy]:
    """The way to the store, which can go away."""
    with FaultProxy(versitygw.endpoint) as started:
        yield started


def take_away(proxy: FaultProxy, path: Path) -> None:
    """From now on nobody reaches the store; that the volume is empty is known by then."""
    assert os.listdir(path) == []
    proxy.go_away()


def metric(node: TestNode, name: str) -> float:
    for line in node.call("metrics").splitlines():
        if line.startswith(f"slayerfs_node_{name} "):
            return float(line.split()[1])
    raise AssertionError(name)


def test_staged_writes_survive_the_loss_of_power(
    tmp_path: Path, versitygw: S3Server, proxy: FaultProxy
) -> None:
    """With a secret of the volume: uploaded once the volume is published again."""
    bucket = versitygw.create_bucket()
    values = {
        "store": s3_store(versitygw, endpoint=proxy.endpoint),
        "options": {"durability": "writeback"},
        "identity": "key:one",
    }
    with node_at(tmp_path) as node:
        path = node.publish("volume", "a", f"s3://{bucket}", **values)
        take_away(proxy, path)
        for number in range(20):
            write(path / f"file{number}", f"text {number}")
        lose_everything(node)
        proxy.come_back()
        node.start_keeper()
        node.start()
        assert metric(node, "orphaned_volumes") == 1
        assert versitygw.admin.keys(bucket) == []
        path = node.publish("volume", "a", f"s3://{bucket}", **values)
        assert (path / "file7").read_text() == "text 7"
        assert metric(node, "orphaned_volumes") == 0
        node.unpublish("volume", "a")
        found = {key: versitygw.admin.get(bucket, key) for key in versitygw.admin.keys(bucket)}
        assert found == {f"file{n}": f"text {n}".encode() for n in range(20)}
        assert node.records() == []


def test_staged_writes_of_the_drivers_identity_are_uploaded_without_a_pod(
    tmp_path: Path, versitygw: S3Server, proxy: FaultProxy
) -> None:
    bucket = versitygw.create_bucket()
    credentials = {
        "access_key_id": versitygw.access_key, "secret_access_key": versitygw.secret_key
    }  # fmt: skip
    with node_at(tmp_path, store=credentials) as node:
        store = s3_store(versitygw, endpoint=proxy.endpoint)
        options = {"durability": "writeback"}
        path = node.publish("volume", "a", f"s3://{bucket}", store=store, options=options)
        take_away(proxy, path)
        write(path / "file", "text")
        lose_everything(node)
        proxy.come_back()
        node.start_keeper()
        node.start()
        wait_for(lambda: node.records() == [], 60, what="the upload")
        assert versitygw.admin.get(bucket, "file") == b"text"
        assert list((node.cache / "volumes").iterdir()) == []


def test_unpublishing_does_not_wait_for_a_store_that_is_away(
    tmp_path: Path, versitygw: S3Server, proxy: FaultProxy
) -> None:
    """It ends in time; the uploads go on, also after the node service is replaced."""
    bucket = versitygw.create_bucket()
    with node_at(tmp_path, flush_timeout=1.0) as node:
        store = s3_store(versitygw, endpoint=proxy.endpoint)
        options = {"durability": "writeback"}
        path = node.publish("volume", "a", f"s3://{bucket}", store=store, options=options)
        take_away(proxy, path)
        write(path / "file", "text")
        assert node.unpublish("volume", "a") == []
        assert node.mounts() == []
        assert not path.exists()
        assert metric(node, "finishing_volumes") == 1
        assert metric(node, "unfinished_uploads_total") == 1
        wait_for(lambda: "UploadsUnfinished" in node.log.read_text(), what="an event")
        node.kill()
        node.start()
        assert metric(node, "finishing_volumes") == 1
        proxy.come_back()
        wait_for(lambda: node.records() == [], 60, what="the upload")
        assert versitygw.admin.get(bucket, "file") == b"text"
        assert node.release("volume", "a") == ["volume"]


def test_a_volume_that_is_still_uploading_is_published_again(
    tmp_path: Path, versitygw: S3Server, proxy: FaultProxy
) -> None:
    """And one that cannot be mounted does not keep it from uploading."""
    bucket = versitygw.create_bucket()
    with node_at(tmp_path, flush_timeout=0.5) as node:
        store = s3_store(versitygw, endpoint=proxy.endpoint)
        options = {"durability": "writeback"}
        url = f"s3://{bucket}"
        path = node.publish("volume", "a", url, store=store, options=options)
        take_away(proxy, path)
        write(path / "file", "text")
        node.unpublish("volume", "a")
        wrong = {**store, "endpoint": versitygw.endpoint, "secret_access_key": "wrong"}
        with pytest.raises(Refused):
            node.publish("volume", "a", url, store=wrong, options=options)
        assert metric(node, "finishing_volumes") == 1
        proxy.come_back()
        direct = s3_store(versitygw)
        path = node.publish("volume", "b", url, store=direct, options=options)
        assert (path / "file").read_text() == "text"
        node.unpublish("volume", "b")
        wait_for(lambda: node.records() == [], 60, what="the upload")
        assert versitygw.admin.get(bucket, "file") == b"text"


def test_a_mount_that_cannot_be_handed_over_is_made_and_bound_again(
    node: TestNode, url: str
) -> None:
    """On libfuse the mount dies with its worker; the pod's path shows the next one."""
    path = node.publish("volume", "a", url, fuse={"engine": "pyfuse3"})
    write(path / "file", "text")
    node.kill_workers()

    def shown() -> bool:
        command = ["timeout", "5", "cat", str(path / "file")]
        return subprocess.run(command, capture_output=True, check=False).stdout == b"text"

    wait_for(shown, what="the new mount")
    assert node.unpublish("volume", "a") == ["volume"]
    assert node.mounts() == node.records() == []


@pytest.mark.parametrize("this_boot", [True, False])
def test_only_workers_of_this_boot_are_ended(
    node: TestNode, url: str, objects: Path, this_boot: bool
) -> None:
    """After a restart of the machine another process may have the number that a record names."""
    node.publish("volume", "a", url)
    (record,) = node.records()
    node.unpublish("volume", "a")
    node.stop()
    with subprocess.Popen(["sleep", "600"]) as other:
        found = mark(other.pid)
        assert found is not None
        record["worker"] = {"pid": found.pid, "started": found.started}
        record["boot"] = record["boot"] if this_boot else "another"
        (node.run / "volumes" / f"{record['mount_id']}.json").write_text(json.dumps(record))
        node.start()
        ended = other.poll() is not None
        other.kill()
    assert ended is this_boot
    assert node.records() == []


def test_a_worker_that_dies_again_and_again_is_an_event(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    for _ in range(3):
        wait_for(node.workers, what="a record that names the new worker")
        node.kill_workers()
        assert os.listdir(path) == []
    wait_for(lambda: "WorkerRestarts" in node.log.read_text(), what="an event")
    node.unpublish("volume", "a")


def test_a_worker_starts_although_the_run_directory_was_emptied(node: TestNode, url: str) -> None:
    """It makes its control socket, with the directory; without it pods waited for ever."""
    path = node.publish("volume", "a", url)
    (pid,) = node.workers()
    for name in ("run", "volumes"):
        shutil.rmtree(node.run / name)
    os.kill(pid, signal.SIGKILL)
    write(path / "file", "text")
    assert wait_for(node.workers, what="a record that names the new worker") != [pid]
    node.unpublish("volume", "a")
    assert node.records() == []


def test_a_bind_gets_its_options_later(node: TestNode, url: str) -> None:
    """The node service was killed between the two."""
    path = node.publish("volume", "a", url, read_only=True)
    node.kill()
    mounts.restrict(str(path), ())
    node.start()
    assert node.publish("volume", "a", url, read_only=True) == path
    with pytest.raises(OSError, match="Read-only"):
        (path / "file").write_text("text")
    node.unpublish("volume", "a")
