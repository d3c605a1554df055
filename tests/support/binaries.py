"""The S3 servers that the tests run against: versions, where they are cached, how they are built.

Standard library only: the set-up runs this before anything else is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The oldest Go that builds all of them.
GO_MINIMUM = (1, 26)


@dataclass(frozen=True, slots=True)
class ServerBinary:
    """A Go program, by the package that `go install` takes."""

    name: str
    package: str
    version: str

    @property
    def path(self) -> Path:
        """Where the built program is, or will be."""
        return cache_directory() / f"{self.name}-{self.version}"


VERSITYGW = ServerBinary("versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0")
MINIO = ServerBinary("minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c")
SERVERS = (VERSITYGW, MINIO)


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


def build(server: ServerBinary, go: str, say: Callable[[str], None] = print) -> None:
    """Build into the cache; a build that fails or is interrupted leaves nothing there.

    Raises CalledProcessError, after the build's own output.
    """
    server.path.parent.mkdir(parents=True, exist_ok=True)
    say(f"building {server.name} {server.version} (minutes, once per machine)")
    with tempfile.TemporaryDirectory(dir=server.path.parent, prefix=".build-") as directory:
        environment = os.environ | {
            "GOBIN": directory,
            "GOFLAGS": "-buildvcs=false -trimpath",
            "CGO_ENABLED": "0",
        }
        subprocess.run(
            [go, "install", "-ldflags=-s -w", f"{server.package}@{server.version}"],
            env=environment,
            check=True,
        )
        os.replace(Path(directory) / server.name, server.path)
