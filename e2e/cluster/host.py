"""What a cluster changes on the machine, and how that is undone.

A network bridge, firewall rules, kernel parameters, the mounts below the state directory, control
groups, a few files at fixed places. ``Host.prepare`` notes down what was there before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from e2e.cluster.processes import KILL_TIMEOUT, ClusterError, Process
from e2e.cluster.settings import BRIDGE, GATEWAY, GATEWAY_PREFIX, Settings

_COMMAND_TIMEOUT = 300
"""Seconds: longer than kubectl is told to wait."""
_CGROUPS = Path("/sys/fs/cgroup")

# Set here (value), or by the kubelet and kube-proxy (None); all are put back.
_PARAMETERS = {
    "net/ipv4/ip_forward": "1",
    # A service's answer from a pod on the same bridge must pass the address translation.
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/ipv4/conf/all/route_localnet": None,
    "vm/overcommit_memory": None,
    "vm/panic_on_oom": None,
    "kernel/panic": None,
    "kernel/panic_on_oops": None,
    "kernel/keys/root_maxkeys": None,
    "kernel/keys/root_maxbytes": None,
}

# Fixed in the components' code: they are removed if they were not there, or made by others.
_FIXED_PLACES = (
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/lib/cni",
    "/run/containerd",
    "/opt/cni",
    "/etc/cni",
    "/usr/libexec/kubernetes",
    "/var/run/kubernetes",
)

_RULES = (("-i", BRIDGE), ("-o", BRIDGE))
"""Forwarding that a machine with Docker would refuse."""


def run(
    *command: str,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout: float = _COMMAND_TIMEOUT,
) -> str:
    """A command's output. Raises ClusterError with what it said when it failed."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{' '.join(command)}: {error}") from error
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def mounts_below(root: Path, mountinfo: str) -> list[str]:
    """Mount points at and below ``root``, the last one first, from a /proc/self/mountinfo."""
    points = [_unescape(line.split()[4]) for line in mountinfo.splitlines()]
    prefix = f"{root}/"
    return [p for p in reversed(points) if p == str(root) or p.startswith(prefix)]


def _unescape(field: str) -> str:
    # proc_pid_mountinfo(5): space, tab, newline and backslash as octal.
    for escaped, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(escaped, character)
    return field


def owner() -> str | None:
    """The state directory of the cluster that is up: written on the bridge. None: there is none."""
    try:
        return Path("/sys/class/net", BRIDGE, "ifalias").read_text().strip()
    except FileNotFoundError:
        return None


def refuse_another() -> None:
    """Raises ClusterError: a cluster is up."""
    other = owner()
    if other is not None:
        raise ClusterError(f"another cluster is up on this machine, in {other or '?'}")


def _chains() -> list[tuple[str, str, str]]:
    """Kubernetes' chains in the firewall: program, table, chain."""
    return [
        (program, table, line.split()[1])
        for program in ("iptables", "ip6tables")
        for table in ("filter", "nat", "mangle")
        for line in run(program, "-w", "-t", table, "-S", check=False).splitlines()
        if line.startswith("-N KUBE-")
    ]


class Host:
    """The machine, as far as one cluster changes it."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.root
        self._bin = settings.bin
        self._notes = settings.root / "host.json"

    def prepare(self) -> None:
        """Bridge, parameters, rules, a shared mount. Raises ClusterError.

        The bridge comes first: there is one, and so there is one cluster at a time.
        """
        refuse_another()
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "link", "set", BRIDGE, "alias", str(self._root))
        parameters = {}
        for name in _PARAMETERS:
            with contextlib.suppress(FileNotFoundError):
                parameters[name] = Path("/proc/sys", name).read_text().strip()
        missing = [place for place in _FIXED_PLACES if not os.path.lexists(place)]
        chains = [list(chain) for chain in _chains()]
        notes = {"parameters": parameters, "missing": missing, "chains": chains}
        self._notes.write_text(json.dumps(notes))
        for name, value in _PARAMETERS.items():
            if value is not None and name in parameters:
                Path("/proc/sys", name).write_text(value)
        run("mount", "--bind", str(self._root), str(self._root))
        # Mounts of the driver must reach the pods, also where the machine's own are private.
        run("mount", "--make-rshared", str(self._root))
        run("ip", "address", "add", f"{GATEWAY}/{GATEWAY_PREFIX}", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for rule in _RULES:
            run("iptables", "-w", "-I", "FORWARD", *rule, "-j", "ACCEPT")

    def undo(self) -> None:
        """Everything that `prepare` and the components did; no error for what is gone already.

        All processes of the cluster but those of pods have ended. Raises ClusterError: a process or
        mount cannot be got rid of.
        """
        if self.owns():
            self._undo_shared()
        self._remove_shim_sockets()
        self._unmount()

    def owns(self) -> bool:
        """Whether what clusters have in common (bridge, firewall, control groups) is this one's."""
        return owner() in (None, str(self._root))

    def _undo_shared(self) -> None:
        self.end_pods()
        self._remove_control_groups()
        if (self._bin / "kube-proxy").exists():
            run(f"{self._bin}/kube-proxy", "--cleanup", check=False)
        for rule in _RULES:
            run("iptables", "-w", "-D", "FORWARD", *rule, "-j", "ACCEPT", check=False)
        self._remove_chains()
        self._restore()
        run("ip", "link", "delete", BRIDGE, check=False)

    def end_pods(self) -> None:
        """Kill what runs in containers, and the shims, which are in no container's group.

        That also ends the servers of FUSE mounts, and with them what waits for their answers.
        """
        deadline = time.monotonic() + KILL_TIMEOUT
        while True:
            left = {*self._shims(), *self._in_control_groups()}
            if not left:
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"processes of pods do not end: {[p.pid for p in left]}")
            for process in left:
                process.signal(signal.SIGKILL)
            for process in left:
                process.wait(0.2)

    def _shims(self) -> Iterator[Process]:
        socket = f"{self._root}/containerd.sock".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                arguments = (directory / "cmdline").read_bytes().split(b"\0")
                shim = b"containerd-shim-runc-v2" in arguments[0]
                process = Process.of(int(directory.name))
                if shim and socket in arguments and process is not None:
                    yield process

    def _in_control_groups(self) -> Iterator[Process]:
        for group in self._control_groups() if self.owns() else ():
            with contextlib.suppress(OSError):
                for line in (group / "cgroup.procs").read_text().split():
                    process = Process.of(int(line))
                    if process is not None:
                        yield process

    @staticmethod
    def _control_groups() -> list[Path]:
        """The kubelet's groups, in each hierarchy, the deepest first."""
        tops = [*_CGROUPS.glob("kubepods"), *_CGROUPS.glob("*/kubepods")]
        return [
            Path(directory)
            for top in tops
            for directory, _, _ in os.walk(top, topdown=False)
            if not Path(directory).is_symlink()
        ]

    def _remove_control_groups(self) -> None:
        for group in self._control_groups():
            with contextlib.suppress(FileNotFoundError, OSError):
                group.rmdir()

    def _remove_chains(self) -> None:
        """Those which kube-proxy leaves because a kubelet might want them."""
        noted = [tuple(chain) for chain in self._read_notes()["chains"]]
        for program, table, chain in _chains():
            if (program, table, chain) not in noted:
                for line in run(program, "-w", "-t", table, "-S").splitlines():
                    if line.startswith("-A ") and line.endswith(f" -j {chain}"):
                        words = line.split()[1:]
                        run(program, "-w", "-t", table, "-D", *words, check=False)
                run(program, "-w", "-t", table, "-F", chain, check=False)
                run(program, "-w", "-t", table, "-X", chain, check=False)

    def _remove_shim_sockets(self) -> None:
        # At a fixed place, named in a file of each container.
        tasks = self._root / "containerd" / "state" / "io.containerd.runtime.v2.task"
        for file in tasks.glob("*/*/bootstrap.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                address = json.loads(file.read_text())["address"]
                Path(address.removeprefix("unix://")).unlink(missing_ok=True)

    def _unmount(self) -> None:
        for _ in range(3):  # mounts on one another
            points = mounts_below(self._root, Path("/proc/self/mountinfo").read_text())
            if not points:
                return
            for point in points:
                # Lazy: the servers of FUSE mounts are dead, and nothing waits for an answer.
                run("umount", "-l", point, check=False)
        raise ClusterError(f"still mounted: {points[0]}")

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes: dict[str, Any] = json.loads(self._notes.read_text())
        except FileNotFoundError:  # `up` failed before anything was changed
            return {"parameters": {}, "missing": [], "chains": [list(c) for c in _chains()]}
        return notes

    def _restore(self) -> None:
        notes = self._read_notes()
        for name, value in notes["parameters"].items():
            with contextlib.suppress(OSError):
                path = Path("/proc/sys", name)
                if path.read_text().strip() != value:
                    path.write_text(value)
        for place in notes["missing"]:
            mountinfo = Path("/proc/self/mountinfo").read_text()
            if Path(place).is_dir() and not mounts_below(Path(place), mountinfo):
                shutil.rmtree(place, ignore_errors=True)
        for link in Path("/var/log/containers").glob("*.log"):
            if link.is_symlink() and str(link.readlink()).startswith(f"{self._root}/"):
                link.unlink()
