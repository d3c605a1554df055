"""The template and the workers it forks: what they hold, what they are called, how they end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.node import Bench, in_parallel, left
from csi_slayer.node import registry
from tests.support.mounts import wait_for
from tests.support.nodes import TestNode, node_at
from tests.support.processes import children
from tests.support.servers import S3Server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def template_of(node: TestNode) -> int:
    assert node.process is not None
    (template,) = children(node.process.pid)
    return template


def descriptors(pid: int) -> set[str]:
    """What a process has open; pipes and sockets by their numbers."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except FileNotFoundError:
            continue
    return found


def no_more(now: Mapping[Any, int], before: Mapping[Any, int]) -> bool:
    """Fewer is well: before, the last thing may still have been on its way out."""
    return all(number <= before[what] for what, number in now.items())


def test_workers_hold_nothing_of_other_volumes(node: TestNode, tmp_path: Path) -> None:
    names = [f"volume{number}" for number in range(3)]
    for name in names:
        (tmp_path / name).mkdir()
        node.publish(name, f"pod-{name}", f"file://{tmp_path / name}")
    node.kill_workers()  # the second ones get a connection from the node service
    for name in names:
        assert os.listdir(node.target(f"pod-{name}")) == []
    wait_for(lambda: len(node.workers()) == 3, what="records that name the new workers")
    mount_ids = {record["mount_id"] for record in node.records()}
    assert len(mount_ids) == 3
    sockets: list[str] = []
    for record in node.records():
        held = descriptors(record["worker"]["pid"])
        text = " ".join(held)
        assert record["mount_id"] in text
        for other in mount_ids - {record["mount_id"]}:
            assert other not in text
        fuse = [link for link in held if link == "/dev/fuse"]
        assert len(fuse) == 1
        sockets += [link for link in held if link.startswith("socket:")]
        assert not [link for link in held if "memfd" in link]
    assert len(sockets) == len(set(sockets)), "no socket is shared"
    assert node.process is not None
    shared = descriptors(template_of(node)) & set(sockets)
    assert shared == set()
    assert not [link for link in descriptors(template_of(node)) if "/dev/fuse" in link]
    for name in names:
        node.unpublish(name, f"pod-{name}")


def test_workers_have_a_name_a_session_and_are_ended_first(node: TestNode, url: str) -> None:
    node.publish("volume", "a", url)
    (worker,) = node.workers()
    assert Path(f"/proc/{worker}/comm").read_text().strip() == "slayer-worker"
    assert os.getsid(worker) == worker
    assert node.process is not None
    own = int(Path(f"/proc/{node.process.pid}/oom_score_adj").read_text())
    assert int(Path(f"/proc/{worker}/oom_score_adj").read_text()) > own
    assert os.readlink(f"/proc/{worker}/fd/0") == "/dev/null"
    node.unpublish("volume", "a")


def test_workers_outlive_the_template_which_is_replaced(node: TestNode, url: str) -> None:
    path = node.publish("volume", "a", url)
    (worker,) = node.workers()
    first = template_of(node)
    os.kill(first, signal.SIGKILL)
    (path / "file").write_text("text")
    assert node.workers() == [worker]
    node.publish("other", "b", url)
    assert node.process is not None
    assert first not in children(node.process.pid)
    # The first worker has the node service for a parent now; nobody else would wait for it.
    os.kill(worker, signal.SIGKILL)
    assert (path / "file").read_text() == "text"
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), what="the end of the first worker")
    node.unpublish("volume", "a")
    node.unpublish("other", "b")
    wait_for(lambda: len(children(node.process.pid)) == 1, what="just the template")  # type: ignore[union-attr]
    assert "slayerfs_node_template_starts_total 2" in node.call("metrics")


def test_grpc_and_threads_are_not_in_the_template(node: TestNode, url: str) -> None:
    node.publish("volume", "a", url)
    template = template_of(node)
    assert "grpc" not in Path(f"/proc/{template}/maps").read_text()
    assert len(list(Path(f"/proc/{template}/task").iterdir())) == 1
    node.unpublish("volume", "a")


def test_limits_of_workers(tmp_path: Path, url: str) -> None:
    """On the hierarchies that this machine has."""
    with node_at(tmp_path, worker_memory="256MiB", worker_cpus=0.5) as node:
        node.publish("volume", "a", url)
        for _ in range(2):
            (worker,) = wait_for(node.workers, what="a record that names the new worker")
            groups = Path(f"/proc/{worker}/cgroup").read_text()
            (record,) = node.records()
            name = f"slayer-{record['mount_id']}"
            assert re.search(rf":memory:.*/{name}$|^0::.*/{name}$", groups, re.MULTILINE)
            node.kill_workers()
            assert os.listdir(node.target("a")) == []
        assert "slayerfs_node_cgroup_limits 1" in node.call("metrics")
        own = [line.split(":", 2) for line in groups.splitlines()]
        memory = next(path for _n, names, path in own if names in ("memory", ""))
        limits = list(Path("/sys/fs/cgroup").glob(f"*{memory}/memory.limit_in_bytes"))
        limits += list(Path("/sys/fs/cgroup").glob(f".{memory}/memory.max"))
        assert [path.read_text().strip() for path in limits] == [str(256 << 20)]
        node.unpublish("volume", "a")
        assert not limits[0].parent.exists()


def test_descriptors_and_processes_do_not_pile_up(node: TestNode, url: str) -> None:
    """One after the other, after the first ones have warmed everything."""

    def cycle(number: int) -> None:
        path = node.publish(f"volume{number % 4}", "a", url)
        (path / "file").write_text(str(number))
        node.unpublish(f"volume{number % 4}", "a")

    assert node.process is not None
    pids = (node.process.pid, template_of(node))
    for number in range(4):
        cycle(number)

    def open_files() -> dict[int, int]:
        return {pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids}

    before = open_files()
    for number in range(20):
        cycle(number)
    wait_for(lambda: no_more(open_files(), before), what="no more than there were before")
    wait_for(lambda: children(pids[0]) == [pids[1]], what="just the template")
    wait_for(lambda: children(pids[1]) == [], what="no worker")
    assert node.mounts() == node.records() == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_cycles_leave_nothing_behind(node: TestNode, versitygw: S3Server) -> None:
    """Eight at a time, as the kubelet asks: processes, descriptors, mounts and files of the node
    service and all below it are no more than before."""
    bench = Bench(node, versitygw)

    def cycle(number: int) -> float:
        seconds = bench.publish(number % 100)
        return seconds + bench.unpublish(number % 100)

    def there_is() -> dict[str, int]:
        return {what: number for what, number in left(node).items() if what != "node_rss"}

    in_parallel(cycle, range(16))
    before = there_is()
    in_parallel(cycle, range(1000))
    wait_for(lambda: no_more(there_is(), before), 120, "no more than there was before")
    assert node.records() == node.workers() == []
    assert not list(node.kubelet.glob("pods/*/volumes/*/pv/*"))
    assert not [it for it in registry.mounts() if it.mountpoint.startswith(str(node.base))]
