"""Bringing the cluster up and down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from e2e.cluster import components, config, loading, pki, s3
from e2e.cluster.components import environment, system_program
from e2e.cluster.host import Host, mounts_below, refuse_another, run
from e2e.cluster.processes import ClusterError, Service, Services
from e2e.cluster.settings import MARKER, NODE, PARTIAL, Settings
from e2e.environment import BUSYBOX_IMAGE, DRIVER_IMAGE, PYTHON_IMAGE, Environment
from e2e.roles import DISCOVERY_BY_ANYBODY, minio_role
from tests.support import binaries

_NODE_TIMEOUT = 180
_GRACE = 3.0
"""Seconds that components get to end by themselves when the whole cluster goes: nothing of theirs
is kept."""
_CNI_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
_SHOWN = "all,pvc,pv,csidrivers,csinodes,volumesnapshots,leases"
_LONGEST_STATE = 40
"""Bytes of the state directory's path: sockets of the kubelet and the driver are deep below it."""

_PROGRAMS: dict[str, Callable[[Settings], Service]] = {
    **components.COMPONENTS,
    "versitygw": s3.versitygw,
    "minio": s3.minio,
}


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


class Cluster:
    """A cluster that is up, by its state directory."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.services = Services(settings.pids, settings.logs)

    @classmethod
    def load(cls, root: Path) -> Cluster:
        """Raises ClusterError: there is none."""
        try:
            return cls(Settings.load(root.resolve()))
        except FileNotFoundError:
            raise ClusterError(
                f"no cluster in {root}: python -m e2e.cluster up --state {root}"
            ) from None

    def kubectl(self, *arguments: str) -> str:
        """Raises ClusterError with what kubectl said."""
        command = (f"{self.settings.bin}/kubectl", f"--kubeconfig={self.settings.kubeconfig}")
        return run(*command, *arguments, environment=environment(self.settings))

    def start(self, name: str) -> None:
        """A service that was stopped, and wait until it is ready."""
        service = self._service(name)
        self.services.start(service)
        self.services.wait(service)

    def stop(self, name: str) -> None:
        """One service; its state stays."""
        self._service(name)
        self.services.stop(name)

    def status(self) -> dict[str, bool]:
        """Which services run."""
        return {name: self.services.find(name) is not None for name in _PROGRAMS}

    def _service(self, name: str) -> Service:
        if name not in _PROGRAMS:
            raise ClusterError(f"no service {name}; there are: {', '.join(_PROGRAMS)}")
        return _PROGRAMS[name](self.settings)


def up(root: Path) -> Cluster:
    """A fresh cluster, or the one that is up already. Raises ClusterError; see its logs then."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root: sudo")
    root = root.resolve()
    if len(os.fsencode(root)) > _LONGEST_STATE:
        raise ClusterError(f"{root}: longer than {_LONGEST_STATE} bytes, and sockets are below it")
    if (root / "env.json").exists():
        cluster = Cluster.load(root)
        if all(cluster.status().values()):
            say(f"the cluster in {root} is up already")
            return cluster
    if root.exists():
        say("an earlier cluster is not in order: removing it")
        down(root)
    return _up(root)


def _up(root: Path) -> Cluster:
    began = time.monotonic()
    # First what may be in the way: nothing has been changed then.
    refuse_another()
    tools = ("etcd", "runc", "ip", "iptables", "openssl", "busybox", "mmdebstrap", "mount")
    runc = {name: system_program(name) for name in tools}["runc"]
    plugins = [place for place in _CNI_PLUGINS if Path(place, "bridge").exists()]
    if not plugins:
        raise ClusterError("no CNI plugins: scripts/install-packages containernetworking-plugins")
    root.mkdir(mode=0o700, parents=True)
    settings = Settings.fresh(root)
    settings.save()
    (root / "logs").mkdir()
    cluster = Cluster(settings)
    say(f"state in {root}")
    components.link_programs(settings)
    Host(settings).prepare()
    settings.config.mkdir()
    pki.make(settings, NODE)
    config.write_all(settings, runc, plugins[0])
    say("etcd, containerd, API server")
    for name in ("etcd", "containerd", "apiserver"):
        cluster.services.start(_PROGRAMS[name](settings))
    cluster.services.wait(_PROGRAMS["containerd"](settings))
    say("images of pods and sidecars")
    loading.load_basics(settings)
    cluster.services.wait(_PROGRAMS["apiserver"](settings))
    say("controller manager, scheduler, kubelet, proxy, S3 servers")
    _apply_objects(cluster)
    rest = [name for name in _PROGRAMS if cluster.services.find(name) is None]
    for name in rest:
        cluster.services.start(_PROGRAMS[name](settings))
    say("the driver's image, from this checkout")
    loading.load_driver(settings)
    for name in rest:
        cluster.services.wait(_PROGRAMS[name](settings))
    say("waiting for the node")
    # First it is not there: the kubelet makes it.
    cluster.kubectl(
        "wait", "--for=create", "--for=condition=Ready", f"node/{NODE}",
        f"--timeout={_NODE_TIMEOUT}s",
    )  # fmt: skip
    _environment(cluster).save(settings.s3_access, settings.s3_secret)
    say(f"up after {time.monotonic() - began:.0f} s: export KUBECONFIG={settings.kubeconfig}")
    return cluster


def _apply_objects(cluster: Cluster) -> None:
    """Custom resources of snapshots and of the Prometheus operator, and leave for MinIO to read the
    keys of token signatures."""
    path = cluster.settings.config / "discovery.json"
    path.write_text(json.dumps(DISCOVERY_BY_ANYBODY))
    files = (path, *(found.path for found in binaries.CLUSTER_FILES))
    cluster.kubectl("apply", "--server-side", *(f"--filename={file}" for file in files))


def _environment(cluster: Cluster) -> Environment:
    settings = cluster.settings
    sidecars = {program.name: loading.sidecar_image(program) for program in loading.SIDECARS}
    return Environment(
        state=settings.root,
        kubeconfig=settings.kubeconfig,
        node=NODE,
        kubelet_directory=settings.kubelet,
        cache_directory=settings.root / "cache",
        programs={name: str(settings.bin / name) for name in ("kubectl", "helm", "ctr")},
        s3={name: settings.s3_endpoint(name) for name in ("versitygw", "minio")},
        credentials=settings.root / "s3-credentials",
        minio_role=minio_role(cluster.services.log("minio").read_text),
        images=sidecars
        | {"driver": DRIVER_IMAGE, "busybox": BUSYBOX_IMAGE, "python": PYTHON_IMAGE},
    )


def down(root: Path, keep_logs: Path | None = None) -> None:
    """End everything and remove the state directory; no error if there is no cluster. What an
    earlier one that was killed has left is removed as well.

    ``keep_logs``: a directory that gets the components' and pods' logs. Raises ClusterError:
    something does not end, and the state directory stays.
    """
    root = root.resolve()
    try:
        cluster = Cluster.load(root)
    except ClusterError:
        if root.exists():
            _remove_empty(root)
        return
    if keep_logs is not None:
        _keep_logs(cluster, keep_logs)
    say("ending the cluster")
    host = Host(cluster.settings)
    names = cluster.services.names()
    # All at once, the kubelet first, so that nothing is started again. It may wait for an answer
    # of a FUSE mount, which only the end of the pods brings about.
    for name in ("kubelet", *names):
        cluster.services.send(name, signal.SIGTERM)
    host.end_pods()
    for name in names:
        cluster.services.stop(name, timeout=_GRACE)
    host.undo()
    left = mounts_below(root, Path("/proc/self/mountinfo").read_text())
    if left:
        raise ClusterError(f"still mounted: {left[0]}")
    remove_state(root)
    say("nothing is left of it")


def remove_state(root: Path) -> None:
    """Remove a state directory; one that is interrupted can be repeated."""
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    (root / MARKER).unlink()
    root.rmdir()


def _remove_empty(root: Path) -> None:
    """What `up` or `down` leaves if it is killed right after it has begun, or before its end."""
    if {path.name for path in root.iterdir()} - {PARTIAL}:
        raise ClusterError(f"{root} is not a cluster's: it is left as it is")
    (root / PARTIAL).unlink(missing_ok=True)
    root.rmdir()


def _keep_logs(cluster: Cluster, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    sources = {"components": cluster.settings.logs, "pods": cluster.settings.root / "pods"}
    for name, source in sources.items():
        # Some may vanish meanwhile: pods still come and go.
        with contextlib.suppress(OSError):
            shutil.copytree(source, place / name, dirs_exist_ok=True)
    commands = {
        "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        "objects.txt": ("get", _SHOWN, "-A", "-o", "wide"),
        "pods.txt": ("describe", "pods", "-A"),
    }
    for name, command in commands.items():
        try:
            text = cluster.kubectl("--request-timeout=10s", *command)
        except ClusterError as error:
            text = f"{error}\n"
        (place / name).write_text(text)
    say(f"logs are in {place}")
