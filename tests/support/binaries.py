"""Go programs of the tests: versions, where they are cached, how they are built.

S3 servers, csi-sanity, and the Kubernetes that `make e2e` runs on. Standard library only: the
set-up runs this before anything else is installed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The oldest Go that builds all of them.
GO_MINIMUM = (1, 26)

# Seconds; no build takes so long.
DAY = 86_400.0

KUBERNETES = "v1.36.3"
# What Kubernetes publishes from its staging directory has the same minor and patch, but major 0.
STAGING = KUBERNETES.replace("v1.", "v0.")


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A Go program, by the package that `go install` takes.

    ``module``: that of a program whose go.mod replaces modules, which `go install` refuses: it is
    built in a module of our own with Kubernetes' staging modules replaced by published ones.
    """

    name: str
    package: str
    version: str
    module: str | None = None
    flags: str = "-s -w"

    @property
    def path(self) -> Path:
        """Where the built program is, or will be."""
        return cache_directory() / f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True)
class ModuleFiles:
    """Files that a Go module has besides its code; ``patterns`` as for Path.glob."""

    name: str
    module: str
    version: str
    patterns: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The directory where copies of them are, or will be."""
        return cache_directory() / f"{self.name}-{self.version}"


def _kubernetes(name: str) -> GoProgram:
    return GoProgram(
        name,
        f"k8s.io/kubernetes/cmd/{name}",
        KUBERNETES,
        module="k8s.io/kubernetes",
        # The servers refuse a development build's version in what they negotiate.
        flags=f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}",
    )


def _sidecar(name: str, repository: str, version: str) -> GoProgram:
    module = f"github.com/kubernetes-csi/{repository}"
    return GoProgram(name, f"{module}/cmd/{name}", version, module=module)


def _containerd(name: str) -> GoProgram:
    return GoProgram(name, f"github.com/containerd/containerd/v2/cmd/{name}", "v2.4.2")


VERSITYGW = GoProgram("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
MINIO = GoProgram("minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c")
CSI_SANITY = GoProgram(
    "csi-sanity", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity", "v5.6.0"
)
APISERVER = _kubernetes("kube-apiserver")
CONTROLLER_MANAGER = _kubernetes("kube-controller-manager")
SCHEDULER = _kubernetes("kube-scheduler")
KUBELET = _kubernetes("kubelet")
KUBE_PROXY = _kubernetes("kube-proxy")
KUBECTL = _kubernetes("kubectl")
CONTAINERD = _containerd("containerd")
CONTAINERD_SHIM = _containerd("containerd-shim-runc-v2")
CTR = _containerd("ctr")
CSI_PROVISIONER = _sidecar("csi-provisioner", "external-provisioner/v6", "v6.4.0")
CSI_SNAPSHOTTER = _sidecar("csi-snapshotter", "external-snapshotter/v8", "v8.7.0")
SNAPSHOT_CONTROLLER = _sidecar("snapshot-controller", "external-snapshotter/v8", "v8.7.0")
CSI_RESIZER = GoProgram(
    "csi-resizer", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer", "v2.3.0"
)
SNAPSHOT_CRDS = ModuleFiles(
    "snapshot-crds",
    "github.com/kubernetes-csi/external-snapshotter/client/v8",
    "v8.6.0",
    ("config/crd/snapshot.storage.*.yaml",),
)
PROMETHEUS_CRDS = ModuleFiles(
    "prometheus-monitoring-crds",
    "github.com/prometheus-operator/prometheus-operator",
    "v0.85.0",
    (
        "example/prometheus-operator-crd/*_podmonitors.yaml",
        "example/prometheus-operator-crd/*_servicemonitors.yaml",
        "example/prometheus-operator-crd/*_prometheusrules.yaml",
    ),
)
CSI_PROTO = ModuleFiles(
    "csi-proto", "github.com/container-storage-interface/spec", "v1.12.0", ("csi.proto",)
)
REGISTRATION_PROTO = ModuleFiles(
    "registration-proto", "k8s.io/kubelet", STAGING, ("pkg/apis/pluginregistration/v1/api.proto",)
)
HELM = GoProgram("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1")

TEST_PROGRAMS = (VERSITYGW, MINIO, CSI_SANITY)
CLUSTER_PROGRAMS = (
    APISERVER, CONTROLLER_MANAGER, SCHEDULER, KUBELET, KUBE_PROXY, KUBECTL,
    CONTAINERD, CONTAINERD_SHIM, CTR,
    CSI_PROVISIONER, CSI_SNAPSHOTTER, SNAPSHOT_CONTROLLER, CSI_RESIZER, HELM,
)  # fmt: skip
PROGRAMS = (*TEST_PROGRAMS, *CLUSTER_PROGRAMS)
TEST_FILES = (CSI_PROTO, REGISTRATION_PROTO)
CLUSTER_FILES = (SNAPSHOT_CRDS, PROMETHEUS_CRDS)


def cache_directory() -> Path:
    """Shared by all checkouts: a build takes minutes and depends on the version alone."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slayerfs" / "bin"


def _new_enough(go: str) -> bool:
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return match is not None and (int(match[1]), int(match[2])) >= GO_MINIMUM


def find_go() -> str | None:
    """Go from this Python's environment or PATH, if it is new enough."""
    for candidate in (Path(sys.prefix) / "bin" / "go", shutil.which("go")):
        if candidate and _new_enough(str(candidate)):
            return str(candidate)
    return None


def module_directory(go: str, module: str, version: str) -> Path:
    """A module's sources, downloaded if need be. Raises CalledProcessError."""
    answer = subprocess.run(
        [go, "mod", "download", "-json", f"{module}@{version}"],
        cwd=tempfile.gettempdir(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    match = re.search(r'"Dir": "([^"]+)"', answer.stdout)
    if match is None:
        raise RuntimeError(f"go has not downloaded {module}@{version}")
    return Path(match[1])


@contextlib.contextmanager
def workspace(cache: Path) -> Iterator[Path]:
    """A directory beside what is made in it. Those that killed processes left go the next day."""
    cache.mkdir(parents=True, exist_ok=True)
    for left in cache.glob(".build-*"):
        with contextlib.suppress(OSError):  # another set-up removes it, or it is root's
            if time.time() - left.stat().st_mtime > DAY:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as directory:
        yield Path(directory)


def fetch(files: ModuleFiles, go: str) -> None:
    """Copy into the cache. Raises CalledProcessError, RuntimeError."""
    source = module_directory(go, files.module, files.version)
    with workspace(files.path.parent) as directory:
        copies = directory / files.name
        copies.mkdir()
        for pattern in files.patterns:
            found = sorted(source.glob(pattern))
            if not found:
                raise RuntimeError(f"{files.module}@{files.version} has no {pattern}")
            for file in found:
                (copies / file.name).write_bytes(file.read_bytes())
        try:
            copies.rename(files.path)
        except OSError:
            if not files.path.is_dir():  # another checkout's set-up was first
                raise


def staging_modules(go_mod: str) -> list[str]:
    """The modules that Kubernetes' go.mod takes from its own staging directory."""
    return re.findall(r"^\s*(?:replace )?(k8s\.io/\S+) => \./staging/", go_mod, re.MULTILINE)


def go_mod_of(program: GoProgram, staging: list[str]) -> str:
    """The go.mod of the module that ``program`` is built in."""
    replaced = "".join(f"\t{name} => {name} {STAGING}\n" for name in staging)
    go = ".".join(map(str, GO_MINIMUM))
    return (
        f"module build\n\ngo {go}.0\n\nrequire {program.module} {program.version}\n\n"
        f"replace (\n{replaced})\n"
    )


def build(program: GoProgram, go: str) -> None:
    """Build into the cache; a build that fails or is interrupted leaves nothing there.

    Raises CalledProcessError, after the build's own output.
    """
    print(f"building {program.name} {program.version} (minutes, once per machine)", flush=True)
    with workspace(program.path.parent) as directory:
        environment = os.environ | {
            "GOBIN": str(directory),
            "GOFLAGS": "-buildvcs=false -trimpath",
            "CGO_ENABLED": "0",
        }
        command = [go, "install", f"-ldflags={program.flags}"]
        if program.module is None:
            command.append(f"{program.package}@{program.version}")
        else:
            kubernetes = module_directory(go, "k8s.io/kubernetes", KUBERNETES)
            staging = staging_modules((kubernetes / "go.mod").read_text())
            (directory / "go.mod").write_text(go_mod_of(program, staging))
            command += ["-mod=mod", program.package]
        subprocess.run(command, cwd=directory, env=environment, check=True)
        os.replace(directory / program.name, program.path)
