"""The root file systems of the driver's image and of test pods, without Docker.

mmdebstrap makes the minimal Debian, and deploy/image/install.sh does in a chroot on it what it does
for the Dockerfile. Three layers: Debian with Python (also what test pods in Python run in), the
dependencies, the project. The first two are cached by what they are made from; the last one takes
seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.images import Layer, pack
from e2e.cluster.processes import ClusterError
from tests.support import binaries

PROJECT = Path(__file__).resolve().parents[2]
INSTALL = PROJECT / "deploy" / "image" / "install.sh"
SUITE = "bookworm"
PREFIX = "opt/slayerfs"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py", "csi_slayer", "protos")
"""What the image is built from; .dockerignore lets through the same."""

_BUILD_TIMEOUT = 900
_KEPT = 2
"""Cached versions of a layer: this checkout's and one more."""

# As in Docker's debian:bookworm-slim.
_EXCLUDED = ("doc", "man", "info", "locale", "lintian", "linda", "groff")
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "HTTP_PROXY",
              "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")  # fmt: skip


@dataclass(frozen=True, slots=True)
class DriverLayers:
    """From the bottom to the top."""

    base: Layer
    dependencies: Layer
    project: Layer


def cache_directory() -> Path:
    return binaries.cache_directory().parent / "images"


def _ask(*step: str) -> list[str]:
    """The lines that a step of the script prints."""
    # Its python3 is to be this one: the machine's may be too old to read TOML.
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    done = subprocess.run(
        [str(INSTALL), *step], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.splitlines()


def _packages(which: str) -> list[str]:
    return " ".join(_ask(which)).split()


def key(*parts: str | bytes) -> str:
    """A short name for what is made from these."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:16]


def build(project_layer: Path) -> DriverLayers:
    """Build what is not cached; the project's layer goes to a file of the caller's.

    Raises ClusterError with the end of the output of a step that failed.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base(cache)
        builder = _cached(cache, "builder", key(base.name, *_packages("build-packages")),
                          lambda made: _install_packages(base, made))  # fmt: skip
        made_from = key(builder.name, INSTALL.read_bytes(), *_ask("requirements", str(PROJECT)))
        stack = [builder, base]
        dependencies = _cached(cache, "dependencies", made_from,
                               lambda made: _install(stack, made, "dependencies"))  # fmt: skip
        with tempfile.TemporaryDirectory(dir=cache, prefix=".project-") as directory:
            made = Path(directory)
            _install([dependencies, *stack], made, "project")
            project = pack(project_layer, made / "files", [PREFIX])
        return DriverLayers(
            base=_packed(base, ["."]), dependencies=_packed(dependencies, [PREFIX]), project=project
        )


def base_rootfs() -> Path:
    """Debian with Python, as a directory; only to be read."""
    return _base(cache_directory()) / "files"


def _cached(cache: Path, kind: str, version: str, make: Callable[[Path], None]) -> Path:
    place = cache / f"{kind}-{version}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-") as directory:
            made = Path(directory) / "made"
            made.mkdir()
            make(made)
            made.rename(place)
    os.utime(place)
    versions = sorted(cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
    for old in versions[:-_KEPT]:
        shutil.rmtree(old)
    return place


def _packed(place: Path, under: list[str]) -> Layer:
    layer = place / "layer.tar"
    return Layer.of(layer) if layer.exists() else pack(layer, place / "files", under)


def _base(cache: Path) -> Path:
    packages = _packages("packages")
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED]
    options.append('--aptopt=APT::Install-Recommends "false"')
    # Instead of the package usrmerge, which comes with all of Perl; Docker's image has none either.
    options.append("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")

    def make(made: Path) -> None:
        _run(
            "mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}",
            *options, SUITE, str(made / "files"),
        )  # fmt: skip

    return _cached(cache, "base", key(SUITE, *packages, *options), make)


def _install_packages(base: Path, made: Path) -> None:
    script = (
        "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq"
        f" --no-install-recommends {' '.join(_packages('build-packages'))}"
        " && rm -rf /var/lib/apt/lists/* /var/cache/apt/*"
    )
    _chroot([base], made, script)


def _install(below: list[Path], made: Path, step: str) -> None:
    with _sources() as sources:
        _chroot(below, made, f"/mnt/install.sh {step} /mnt/source", sources)


@contextlib.contextmanager
def _sources() -> Iterator[Path]:
    """A copy: building may write into it."""
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "source"
        source.mkdir()
        for name in SOURCES:
            path = PROJECT / name
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, source / name, ignore=ignored)
            else:
                shutil.copy2(path, source / name)
        shutil.copy2(INSTALL, directory)
        yield Path(directory)


def _chroot(below: list[Path], made: Path, script: str, sources: Path | None = None) -> None:
    """Run a script on a stack of layers; what it writes is in ``made/files``."""
    for name in ("files", "work", "root"):
        (made / name).mkdir()
    lower = ":".join(str(place / "files") for place in below)
    steps = [
        "set -e",
        f"mount -t overlay overlay -o lowerdir={lower},upperdir={made}/files,workdir={made}/work"
        f" {made}/root",
        f"cd {made}/root",
        "mount -t proc proc proc",
        "mount --rbind /dev dev",
        "cp -L /etc/resolv.conf etc/resolv.conf",
        # Where a proxy with a certificate of its own stands between here and the packages.
        f"cp -L {_CERTIFICATES} etc/ssl/certs/ca-certificates.crt",
        *([f"mount --bind {sources} mnt"] if sources else []),
        'exec chroot . sh -c "$0"',
    ]
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "PIP_CERT": str(_CERTIFICATES),
    }
    # The mounts are in a namespace of their own and go with its last process.
    _run("unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(steps), script,
         environment=environment)  # fmt: skip
    shutil.rmtree(made / "work")
    (made / "root").rmdir()


def _run(*command: str, environment: dict[str, str] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"building an image: {error}") from error
    if done.returncode:
        raise ClusterError(f"building an image: {command[0]} failed:\n{done.stdout[-3000:]}")
