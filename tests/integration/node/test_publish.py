"""Publishing and unpublishing: what the kubelet asks for, again and again and all at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from csi_slayer.fuse import mount as mounts
from tests.integration.node.loads import s3_store
from tests.support.disturb import hashes
from tests.support.mounts import slayer, wait_for
from tests.support.nodes import Refused, TestNode, node_at
from tests.support.servers import S3Server

pytestmark = pytest.mark.integration


def test_two_pods_share_one_worker(node: TestNode, url: str) -> None:
    first = node.publish("volume", "a", url)
    second = node.publish("volume", "b", url, read_only=True)
    (first / "file").write_text("text")
    assert (second / "file").read_text() == "text"
    with pytest.raises(OSError, match="Read-only"):
        (second / "file").write_text("other")
    assert len(node.workers()) == 1
    assert node.unpublish("volume", "a") == []
    assert (second / "file").read_text() == "text"
    assert not first.exists()
    assert node.unpublish("volume", "b") == ["volume"]
    assert node.mounts() == []


def test_nothing_is_left_behind(node: TestNode, url: str, objects: Path) -> None:
    path = node.publish("volume", "a", url)
    (path / "file").write_text("text")
    control = list((node.run / "run").iterdir())
    assert len(control) == 1
    node.unpublish("volume", "a")
    assert list(hashes(objects)) == ["file"]
    assert node.records() == []
    for directory in (node.run / "run", node.run / "mounts", node.cache / "volumes"):
        assert list(directory.iterdir()) == []
    assert list((node.cache / "staging").iterdir()) == []
    assert node.call("metrics").count('slayerfs_node_workers{state="serving"} 0') == 1


def test_again_is_no_error(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    assert node.publish("volume", "a", url) == path
    assert len([point for point in node.mounts() if point == str(path)]) == 1
    node.unpublish("volume", "a")
    assert node.unpublish("volume", "a") == []
    assert node.unpublish("never-heard-of", "a") == []


def test_many_calls_at_once(node: TestNode, url: str) -> None:
    """Of one volume and of several; each call is repeated while it is under way."""
    requests = [
        node.request(f"volume{number % 3}", f"pod{number}", url)
        for number in range(9)
        for _ in range(2)
    ]
    for number in [node.begin("publish", **request) for request in requests]:
        node.end(number)
    assert len(node.workers()) == 3
    calls = [
        node.begin("unpublish", volume_id=request["volume_id"], target=request["target"])
        for request in requests
    ]
    released = [volume for number in calls for volume in node.end(number)]
    assert sorted(released) == ["volume0", "volume1", "volume2"]
    assert node.mounts() == []


def test_a_target_with_other_options_or_of_another_volume_is_refused(
    node: TestNode, url: str
) -> None:
    node.publish("volume", "a", url)
    with pytest.raises(Refused, match="other mount options") as refused:
        node.publish("volume", "a", url, read_only=True)
    assert refused.value.code == "ALREADY_EXISTS"
    with pytest.raises(Refused, match="has volume volume"):
        node.publish("other", "a", url)
    with pytest.raises(Refused, match="gid") as refused:
        node.publish("volume", "b", url, options={"gid": 77})
    assert refused.value.code == "ALREADY_EXISTS"
    assert not node.target("b").exists()
    node.unpublish("volume", "a")


def test_a_volume_for_one_pod_is_refused_to_the_second(node: TestNode, url: str) -> None:
    node.publish("volume", "a", url, exclusive=True)
    node.publish("volume", "a", url, exclusive=True)
    with pytest.raises(Refused, match="one pod at a time") as refused:
        node.publish("volume", "b", url, exclusive=True)
    assert refused.value.code == "FAILED_PRECONDITION"
    node.unpublish("volume", "a")
    node.publish("volume", "b", url, exclusive=True)
    node.unpublish("volume", "b")


def test_options_of_the_bind_mount(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url, flags=["noexec", "noatime"])
    lines = Path("/proc/self/mounts").read_text().splitlines()
    (options,) = [line.split()[3] for line in lines if line.split()[1] == str(path)]
    assert {"noexec", "noatime", "nosuid", "nodev"} <= set(options.split(","))
    node.unpublish("volume", "a")
    with pytest.raises(Refused, match="'sync': expected one of") as refused:
        node.publish("volume", "a", url, flags=["sync"])
    assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("where", ["/etc/volume", "..", "relative", "", "/"])
def test_targets_outside_the_kubelet_are_refused(node: TestNode, url: str, where: str) -> None:
    target = str(node.kubelet / where / "x") if where == ".." else where
    with pytest.raises(Refused) as refused:
        node.call("publish", **{**node.request("volume", "a", url), "target": target})
    assert refused.value.code == "INVALID_ARGUMENT"
    with pytest.raises(Refused) as refused:
        node.call("unpublish", volume_id="volume", target=target)
    assert refused.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize("depth", [0, 2])
def test_symbolic_links_on_the_way_are_refused(
    node: TestNode, url: str, tmp_path: Path, depth: int
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "volumes/kubernetes.io~csi/pv").mkdir(parents=True)
    (elsewhere / "pv").mkdir()
    target = node.target("a")
    place = [target, target.parent, target.parent.parent][depth]
    if place.exists():
        for empty in [target.parent] if depth == 2 else []:
            empty.rmdir()
        place.rmdir()
    place.symlink_to(elsewhere)
    with pytest.raises(Refused, match="symbolic link") as refused:
        node.publish("volume", "a", url)
    assert refused.value.code == "INVALID_ARGUMENT"
    assert not [point for point in node.mounts() if point.startswith(str(elsewhere))]


def test_a_mount_of_somebody_else_at_the_target_is_not_touched(node: TestNode, url: str) -> None:
    target = node.target("a")
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(target)], check=True)
    try:
        with pytest.raises(Refused, match="tmpfs mount that is not of this driver"):
            node.publish("volume", "a", url)
        with pytest.raises(Refused, match="tmpfs mount that is not of this driver"):
            node.unpublish("volume", "a")
    finally:
        subprocess.run(["umount", str(target)], check=True)
    node.publish("volume", "a", url)
    node.unpublish("volume", "a")


def test_an_unmounted_directory_is_never_shown_as_the_volume(node: TestNode, url: str) -> None:
    """Somebody unmounts the private mount: the next pod gets the volume, or an error."""
    node.publish("volume", "a", url)
    (private,) = (node.run / "mounts").iterdir()
    mounts.unmount(str(private), lazy=True)
    with pytest.raises(Refused, match="mounted"):
        node.publish("volume", "b", url)
    assert not [point for point in node.mounts() if point == str(node.target("b"))]
    node.unpublish("volume", "a")
    (node.publish("volume", "b", url) / "file").write_text("text")
    node.unpublish("volume", "b")


def test_a_target_that_lost_its_mount_gets_it_back(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    (path / "file").write_text("text")
    mounts.unmount(str(path), lazy=True)
    node.publish("volume", "a", url)
    assert (path / "file").read_text() == "text"
    node.unpublish("volume", "a")


def test_content_below_a_mount_keeps_nothing_else(node: TestNode, url: str) -> None:
    """Somebody unmounted the target and a program wrote on: the volume ends, the bytes stay."""
    path = node.publish("volume", "a", url)
    mounts.unmount(str(path), lazy=True)
    (path / "file").write_text("in no volume")
    with pytest.raises(Refused, match="move its content away") as refused:
        node.publish("volume", "a", url)
    assert refused.value.code == "FAILED_PRECONDITION"
    assert node.unpublish("volume", "a") == ["volume"]
    assert node.unpublish("volume", "a") == []
    assert node.mounts() == node.records() == node.workers() == []
    assert (path / "file").read_text() == "in no volume"
    wait_for(lambda: "TargetNotEmpty" in node.log.read_text(), what="an event")
    (path / "file").unlink()
    node.publish("volume", "a", url)
    node.unpublish("volume", "a")
    assert not path.exists()


def test_a_directory_with_content_is_no_target(node: TestNode, url: str) -> None:
    target = node.target("a")
    target.mkdir()
    (target / "file").write_text("text")
    with pytest.raises(Refused, match="not empty") as refused:
        node.publish("volume", "a", url)
    assert refused.value.code == "FAILED_PRECONDITION"
    assert node.mounts() == node.records() == node.workers() == []
    node.unpublish("volume", "a")
    assert (target / "file").read_text() == "text"


def test_a_slash_at_the_end_of_a_target_is_of_no_meaning(node: TestNode, url: str) -> None:
    path = str(node.publish("volume", "a", url))
    request = node.request("volume", "a", url)
    node.call("publish", **{**request, "target": f"{path}/"})
    assert node.mounts().count(path) == 1
    assert not node.call("stats", volume_id="volume", path=f"{path}/")["abnormal"]
    assert node.call("unpublish", volume_id="volume", target=f"{path}/") == ["volume"]
    assert not os.path.lexists(path)


def test_what_is_no_directory_is_unpublished_and_stays(node: TestNode) -> None:
    for pod, make in (("a", Path.touch), ("b", lambda path: path.symlink_to("nowhere"))):
        make(node.target(pod))
        assert node.unpublish("volume", pod) == []
        assert os.path.lexists(node.target(pod))


def test_a_volume_that_cannot_be_mounted_says_why_and_leaves_nothing(
    node: TestNode, tmp_path: Path, url: str
) -> None:
    with pytest.raises(Refused, match="missing") as refused:
        node.publish("volume", "a", f"file://{tmp_path}/missing")
    assert refused.value.code == "NOT_FOUND"
    assert node.mounts() == node.records() == node.workers() == []
    assert list((node.cache / "volumes").iterdir()) == []
    assert not node.target("a").exists()
    node.publish("volume", "a", url)
    node.unpublish("volume", "a")


def test_a_busy_target_is_unpublished_all_the_same(node: TestNode, url: str) -> None:
    """A process of a pod that was deleted by force still works in it."""
    path = node.publish("volume", "a", url)
    with subprocess.Popen(["sleep", "600"], cwd=path) as program:
        try:
            assert node.unpublish("volume", "a") == ["volume"]
            assert node.mounts() == []
        finally:
            program.kill()


def test_quota_and_expansion(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url, options={"quota": "1MiB"})
    with pytest.raises(OSError, match=r"No space|quota"):
        (path / "large").write_bytes(b"x" * (3 << 20))
    for capacity in (8 << 20, 4 << 20):  # late, or repeated: it has that much
        node.call("expand", volume_id="volume", path=str(path), capacity=capacity)
    (path / "larger").write_bytes(b"x" * (3 << 20))
    stats = node.call("stats", volume_id="volume", path=str(path))
    assert stats["capacity"] == 8 << 20
    assert stats["used"] >= 3 << 20
    assert not stats["abnormal"]
    assert os.statvfs(path).f_blocks * os.statvfs(path).f_frsize == 8 << 20
    node.kill_workers()
    (path / "still").write_bytes(b"x" * (2 << 20))
    with contextlib.suppress(FileNotFoundError):
        (path / "large").unlink()
    node.unpublish("volume", "a")
    with pytest.raises(Refused) as refused:
        node.call("stats", volume_id="volume", path=str(path))
    assert refused.value.code == "NOT_FOUND"


def test_credentials_are_renewed_and_checked(node: TestNode, versitygw: S3Server) -> None:
    bucket = versitygw.create_bucket()
    store = s3_store(versitygw)
    path = node.publish("volume", "a", f"s3://{bucket}", store=store, identity="key:one")
    wrong = {**store, "secret_access_key": "not-the-one"}
    with pytest.raises(Refused) as refused:
        node.publish("volume", "b", f"s3://{bucket}", store=wrong, identity="key:one")
    assert refused.value.code in ("PERMISSION_DENIED", "UNAUTHENTICATED")
    assert not node.target("b").exists()
    (path / "file").write_text("the first ones are in force")
    # The same target with another key: what a rotation looks like.
    token = {**store, "session_token": None}
    node.publish("volume", "a", f"s3://{bucket}", store=token, identity="key:two")
    assert len(node.workers()) == 1
    (path / "other").write_text("still")
    node.unpublish("volume", "a")
    assert {"file", "other"} <= set(versitygw.admin.keys(bucket))


def test_a_target_keeps_its_identity(node: TestNode, versitygw: S3Server) -> None:
    """Else the next pod with the first one would put that back under this pod."""
    url = f"s3://{versitygw.create_bucket()}"
    store = s3_store(versitygw)
    node.publish("volume", "a", url, store=store, identity="driver")
    with pytest.raises(Refused, match="another identity") as refused:
        node.publish("volume", "a", url, store=store, identity="key:one")
    assert refused.value.code == "ALREADY_EXISTS"
    assert [record["identity"] for record in node.records()] == ["driver"]
    node.unpublish("volume", "a")


def test_a_volume_for_one_pod_alone(node: TestNode, url: str) -> None:
    """Also after a restart, and whichever of the two calls says so."""
    node.publish("volume", "a", url, exclusive=True)
    node.kill()
    node.start()
    for exclusive in (False, True):
        with pytest.raises(Refused, match="one pod at a time") as refused:
            node.publish("volume", "b", url, exclusive=exclusive)
        assert refused.value.code == "FAILED_PRECONDITION"
    with pytest.raises(Refused, match="other mount options or access") as refused:
        node.publish("volume", "a", url, exclusive=False)
    assert refused.value.code == "ALREADY_EXISTS"
    node.publish("volume", "a", url, exclusive=True)
    node.unpublish("volume", "a")
    node.publish("volume", "b", url)
    node.unpublish("volume", "b")


def test_a_worker_that_is_restarting_is_a_condition(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    node.kill_workers()

    def well() -> bool:
        return not node.call("stats", volume_id="volume", path=str(path))["abnormal"]

    restarted = "slayerfs_node_worker_restarts_total 1"
    wait_for(lambda: restarted in node.call("metrics"), what="a restart")
    wait_for(well, what="a new worker")
    node.unpublish("volume", "a")


def test_the_command_line_shows_published_volumes(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url, labels={"claim": "data"})
    (path / "file").write_text("text")

    def shown() -> list[dict[str, object]]:
        volumes = json.loads(slayer("status", "--json").stdout)
        return [it for it in volumes if str(it["mountpoint"]).startswith(str(node.base))]

    (volume,) = shown()
    assert volume["labels"] == {"volume": "volume", "claim": "data"}
    node.kill()
    node.start()
    wait_for(lambda: "error" not in shown()[0], what="a worker that answers")
    node.unpublish("volume", "a")
    assert shown() == []


def test_metrics_of_workers_have_the_claim(node: TestNode, url: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    node.publish("volume", "a", url, labels={"claim": "data", "namespace": "team"})
    node.publish("other", "b", f"file://{tmp_path}/other", labels={"claim": "more"})

    def scraped() -> list[str]:
        lines: list[str] = node.call("metrics").splitlines()
        opens = [line for line in lines if line.startswith("slayerfs_opens_total{")]
        return lines if len(opens) == 2 else []  # a worker that is slow to answer is left out

    lines = wait_for(scraped, what="metrics of both workers")
    opens = [line for line in lines if line.startswith("slayerfs_opens_total{")]
    assert any('claim="data"' in line and 'namespace="team"' in line for line in opens)
    assert lines.count("# TYPE slayerfs_opens_total counter") == 1
    node.unpublish("volume", "a")
    node.unpublish("other", "b")


def test_a_worker_that_hangs_keeps_no_pod_from_going(tmp_path: Path, url: str) -> None:
    with node_at(tmp_path, flush_timeout=1.0) as node:
        node.publish("volume", "a", url)
        (worker,) = node.workers()
        os.kill(worker, signal.SIGSTOP)
        assert node.unpublish("volume", "a") == []
        assert node.mounts() == []
        # The pod comes back: it does not wait for the one that hangs.
        path = node.publish("volume", "b", url)
        (path / "file").write_text("text")
        # A worker that is well may take longer than that second, too.
        assert node.release("volume", "b") == ["volume"]


def test_a_record_that_cannot_be_written_stops_nothing(node: TestNode, url: str) -> None:
    """The keeper knows the same."""
    records = node.run / "volumes"
    records.rmdir()
    records.write_text("in the way")
    path = node.publish("volume", "a", url)
    node.kill()
    records.unlink()
    node.start()
    (path / "file").write_text("text")
    assert node.unpublish("volume", "a") == ["volume"]
    assert node.mounts() == node.records() == []


def test_another_s_target_stays(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    assert node.unpublish("other", "a") == []
    (path / "file").write_text("text")
    assert node.unpublish("volume", "a") == ["volume"]
