"""Limits of each worker's memory and processors, by control groups of version 1 or 2.

A group per volume below the node service's own, so that what Kubernetes gave the pod is never
exceeded. Where the hierarchies cannot be written, as in a container without privileges, workers
run without limits of their own. All of it may wait for the kernel: to be called in a thread.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from csi_slayer.fuse.mount import lines

log = structlog.get_logger(__name__)

PERIOD: Final = 100_000
"""Microseconds in which a group may use its share of the processors."""

_PREFIX: Final = "slayer-"
_SERVICE: Final = "slayer-service"
"""Where the node service itself goes: in version 2 a group has processes or limits below it."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """``own``: directory of the node service's group. ``version``: 1 or 2. ``controllers``: those
    of ``memory`` and ``cpu`` that are to be limited there."""

    own: Path
    version: int
    controllers: tuple[str, ...]


class Limits:
    """``memory`` in bytes, ``cpus`` in processors; None: no limit. ``proc`` is /proc/self."""

    def __init__(
        self, memory: int | None, cpus: float | None, proc: Path = Path("/proc/self")
    ) -> None:
        self._settings = {
            name: value for name, value in (("memory", memory), ("cpu", cpus)) if value is not None
        }
        self._proc = proc
        self._hierarchies: list[Hierarchy] = []

    @property
    def wanted(self) -> bool:
        return bool(self._settings)

    @property
    def active(self) -> bool:
        """Whether every limit that is wanted is enforced."""
        found = {name for item in self._hierarchies for name in item.controllers}
        return self.wanted and found == set(self._settings)

    def prepare(self) -> None:
        """Find the hierarchies, and remove groups that an earlier node service left. No error:
        what cannot be limited is logged."""
        if not self.wanted:
            return
        try:
            for item in find(self._proc, tuple(self._settings)):
                if item.version == 2:
                    _delegate(item)
                for group in item.own.glob(f"{_PREFIX}*"):
                    if group.name != _SERVICE:
                        with contextlib.suppress(OSError):
                            group.rmdir()
                probe = item.own / f"{_PREFIX}probe"
                probe.mkdir()
                probe.rmdir()
                self._hierarchies.append(item)
        except OSError as error:
            log.warning("no_cgroup_limits", reason=f"{error.filename}: {error.strerror}")
        missing = set(self._settings) - {n for h in self._hierarchies for n in h.controllers}
        if missing:
            log.warning("workers_unlimited", resources=sorted(missing))

    def confine(self, name: str, pid: int) -> None:
        """Put a process under the limits, in the group of that name. No error."""
        for item in self._hierarchies:
            group = item.own / f"{_PREFIX}{name}"
            try:
                group.mkdir(exist_ok=True)
                for controller in item.controllers:
                    for file, text in _limits(item.version, controller, self._settings[controller]):
                        (group / file).write_text(text)
                (group / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                return  # it has ended already
            except OSError as error:
                log.warning("worker_unlimited", group=str(group), reason=error.strerror)

    def remove(self, name: str) -> None:
        """Remove a group whose processes have ended."""
        for item in self._hierarchies:
            with contextlib.suppress(OSError):
                (item.own / f"{_PREFIX}{name}").rmdir()


def _limits(version: int, controller: str, value: float) -> list[tuple[str, str]]:
    """Files of a group and what is written there (kernel: cgroup-v1/memory.rst, sched-bwc.rst,
    cgroup-v2.rst)."""
    if controller == "memory":
        return [("memory.max" if version == 2 else "memory.limit_in_bytes", str(int(value)))]
    quota = max(1000, int(value * PERIOD))  # the kernel's least
    if version == 2:
        return [("cpu.max", f"{quota} {PERIOD}")]
    return [("cpu.cfs_period_us", str(PERIOD)), ("cpu.cfs_quota_us", str(quota))]


def _delegate(item: Hierarchy) -> None:
    """Let groups below have limits. Raises OSError."""
    service = item.own / _SERVICE
    service.mkdir(exist_ok=True)
    for pid in (item.own / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            (service / "cgroup.procs").write_text(pid)
    enable = " ".join(f"+{name}" for name in item.controllers)
    (item.own / "cgroup.subtree_control").write_text(enable)


def find(proc: Path, wanted: tuple[str, ...]) -> list[Hierarchy]:
    """Where this process is in the hierarchies with these controllers. Raises OSError."""
    paths: dict[str, str] = {}  # controllers, comma-separated ("" is version 2), to the group
    for line in (proc / "cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        paths[controllers] = path
    found = []
    for line in lines(proc / "mountinfo"):
        left, _, right = line.partition(" - ")
        root, point = left.split(" ")[3:5]
        fstype, _source, options = right.split(" ")[:3]
        if fstype == "cgroup":
            for controllers, path in paths.items():
                names = tuple(name for name in wanted if name in controllers.split(","))
                if names and set(controllers.split(",")) <= set(options.split(",")):
                    found.append(Hierarchy(_inside(point, root, path), 1, names))
        elif fstype == "cgroup2" and "" in paths:
            own = _inside(point, root, paths[""])
            there = (own / "cgroup.controllers").read_text().split()
            names = tuple(name for name in wanted if name in there)
            if names:
                found.append(Hierarchy(own, 2, names))
    return found


def _inside(point: str, root: str, path: str) -> Path:
    """Where the group ``path`` is below a mount that shows the hierarchy from ``root`` on."""
    below = os.path.relpath(path, root)
    return Path(point) / ("" if below.startswith("..") else below)
