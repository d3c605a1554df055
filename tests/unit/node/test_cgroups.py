"""Limits, on trees of files that look like the hierarchies of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from csi_slayer.node import cgroups
from csi_slayer.node.cgroups import Hierarchy, Limits

GIB = 1 << 30


class Tree:
    """A /proc/self and what is mounted."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.proc = base / "proc"
        self.proc.mkdir()
        self.groups: list[str] = []
        self.mounts: list[str] = []
        self._write()

    def version1(self, controllers: str, path: str, *, root: str = "/") -> Path:
        point = self.base / f"v1-{controllers.replace(',', '-')}"
        self.groups.append(f"{len(self.groups) + 2}:{controllers}:{path}")
        self.mounts.append(f"30 1 0:1 {root} {point} rw - cgroup cgroup rw,{controllers}")
        return self._own(point, path, root)

    def version2(self, path: str, controllers: str) -> Path:
        point = self.base / "v2"
        self.groups.append(f"0::{path}")
        self.mounts.append(f"31 1 0:2 / {point} rw - cgroup2 cgroup2 rw")
        own = self._own(point, path, "/")
        (own / "cgroup.controllers").write_text(controllers)
        (own / "cgroup.procs").write_text("")
        return own

    def _own(self, point: Path, path: str, root: str) -> Path:
        own = point / path.removeprefix(root).strip("/")
        own.mkdir(parents=True)
        self._write()
        return own

    def _write(self) -> None:
        (self.proc / "cgroup").write_text("".join(f"{line}\n" for line in self.groups))
        (self.proc / "mountinfo").write_text("".join(f"{line}\n" for line in self.mounts))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_what_others_mount_is_in_nobodys_way(tree: Tree) -> None:
    tree.mounts.append("29 1 0:3 /a\u2028b /pods/x rw - ext4 /dev/sda rw")
    tree.version1("memory", "/")
    limits = Limits(GIB, None, tree.proc)
    limits.prepare()
    assert limits.active


def test_version_1(tree: Tree) -> None:
    memory = tree.version1("memory", "/kubepods/pod1", root="/kubepods")
    cpu = tree.version1("cpu,cpuacct", "/")
    limits = Limits(GIB, 1.5, tree.proc)
    limits.prepare()
    assert limits.active
    limits.confine("volume", 42)
    group = memory / "slayer-volume"
    assert (group / "memory.limit_in_bytes").read_text() == str(GIB)
    assert (group / "cgroup.procs").read_text() == "42"
    assert (cpu / "slayer-volume/cpu.cfs_quota_us").read_text() == "150000"
    assert (cpu / "slayer-volume/cpu.cfs_period_us").read_text() == "100000"


def test_version_2_moves_the_service_out_of_the_way(tree: Tree) -> None:
    own = tree.version2("/kubepods/pod1", "cpuset cpu memory pids")
    (own / "cgroup.procs").write_text("7\n")
    limits = Limits(GIB, 2, tree.proc)
    limits.prepare()
    assert limits.active
    assert (own / "slayer-service/cgroup.procs").read_text() == "7"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +cpu"
    limits.confine("volume", 42)
    assert (own / "slayer-volume/memory.max").read_text() == str(GIB)
    assert (own / "slayer-volume/cpu.max").read_text() == "200000 100000"


def test_what_is_not_wanted_is_not_limited(tree: Tree) -> None:
    own = tree.version2("/", "cpu memory")
    limits = Limits(None, None, tree.proc)
    limits.prepare()
    limits.confine("volume", 42)
    assert not limits.wanted
    assert not limits.active
    assert sorted(path.name for path in own.iterdir()) == ["cgroup.controllers", "cgroup.procs"]


def test_a_hierarchy_without_the_controller_is_of_no_use(tree: Tree) -> None:
    tree.version2("/", "")
    memory = tree.version1("memory", "/")
    assert cgroups.find(tree.proc, ("memory", "cpu")) == [Hierarchy(memory, 1, ("memory",))]
    limits = Limits(GIB, 1, tree.proc)
    limits.prepare()
    assert not limits.active, "processors are not limited"
    limits.confine("volume", 42)
    assert (memory / "slayer-volume/cgroup.procs").read_text() == "42"


def test_nothing_that_can_be_written_is_no_failure(tree: Tree) -> None:
    own = tree.version1("memory", "/gone")
    own.rmdir()
    limits = Limits(GIB, None, tree.proc)
    limits.prepare()
    assert not limits.active
    limits.confine("volume", 42)
    limits.remove("volume")


def test_groups_of_an_earlier_service_are_removed(tree: Tree) -> None:
    own = tree.version1("memory", "/")
    (own / "slayer-old").mkdir()
    (own / "somebody-else").mkdir()
    limits = Limits(GIB, None, tree.proc)
    limits.prepare()
    assert [path.name for path in own.iterdir()] == ["somebody-else"]


def test_quotas_are_at_least_what_the_kernel_takes(tree: Tree) -> None:
    cpu = tree.version1("cpu", "/")
    limits = Limits(None, 0.0001, tree.proc)
    limits.prepare()
    limits.confine("volume", 42)
    assert (cpu / "slayer-volume/cpu.cfs_quota_us").read_text() == "1000"
