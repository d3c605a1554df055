"""What ``csi-slayer doctor`` finds out about kernel, FUSE, permissions and what is installed."""

from __future__ import annotations

import errno
import os
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from csi_slayer.config import MountConfig
from csi_slayer.fuse import fusermount

Level = Literal["ok", "note", "bad"]

CAP_SYS_ADMIN = 21

OPEN_FILES = 16384
"""Files that a mount should be able to have open."""

_EVERY_USER = ["0", "0", "4294967295"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; ``mend`` says what to do about it."""

    level: Level
    text: str
    mend: str = ""


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 9) of '6.9.3-amd64'."""
    numbers = release.split("-")[0].split(".")
    return int(numbers[0]), int(numbers[1])


def check_kernel(release: str | None = None) -> Iterator[Finding]:
    version = kernel_version(release or platform.release())
    text = f"kernel {version[0]}.{version[1]}"
    if version >= (6, 9):
        yield Finding("ok", f"{text}: passthrough and taking over of connections")
    elif version >= (5, 4):
        yield Finding("note", f"{text}: every read and write goes through the worker",
                      "Linux 6.9 or later has FUSE passthrough and resend: much faster, and mounts "
                      "that survive a killed worker")  # fmt: skip
    else:
        yield Finding("bad", f"{text} is too old", "Linux 5.4 or later is needed")


def check_fuse(device: str = "/dev/fuse") -> Iterator[Finding]:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        yield Finding("ok", f"{device} can be opened")
    except FileNotFoundError:
        yield Finding(
            "bad", f"{device} is missing", "modprobe fuse, or give the container the device"
        )
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENXIO):
            mend = "modprobe fuse, on the host of a container"
        elif os.geteuid() == 0:
            mend = f"give the container the device: --device {device}"
        else:
            mend = f"let users open it (chmod 666 {device}), or run as root"
        yield Finding("bad", f"{device}: {error.strerror}", mend)


def check_privileges(allow_other: bool = False) -> Iterator[Finding]:
    """``allow_other``: what the mount is told."""
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    if int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1:
        if not _is_in_user_namespace():
            yield Finding("ok", "CAP_SYS_ADMIN: may mount and use passthrough")
        else:
            yield Finding("note", "CAP_SYS_ADMIN of a user namespace: may mount, and every read "
                          "and write goes through the worker",
                          "run as the machine's own root for passthrough")  # fmt: skip
    elif os.geteuid() == 0:
        yield Finding("bad", "no CAP_SYS_ADMIN: may not mount",
                      "give the container or the unit CAP_SYS_ADMIN "
                      "(--cap-add SYS_ADMIN)")  # fmt: skip
    elif not fusermount.is_needed():
        yield Finding("bad", "no CAP_SYS_ADMIN: may not mount",
                      f"run as root (sudo), or install fuse3, whose {fusermount.PROGRAM} mounts "
                      "for users")  # fmt: skip
    elif status.get("NoNewPrivs") == "1":
        yield Finding("bad", f"no CAP_SYS_ADMIN, and {fusermount.PROGRAM} gets none either: "
                      "no_new_privs is set",
                      "run as root, or without NoNewPrivileges= (no-new-privileges)")  # fmt: skip
    elif not fusermount.is_privileged():
        yield Finding("bad", f"no CAP_SYS_ADMIN, and {fusermount.PROGRAM} gets none either: it is "
                      "not set-uid root",
                      f"chmod u+s $(command -v {fusermount.PROGRAM}) as root, or install fuse3 "
                      "anew")  # fmt: skip
    else:
        yield Finding("note", f"no CAP_SYS_ADMIN: {fusermount.PROGRAM} mounts, and every read and "
                      "write goes through the worker",
                      "run as root (sudo) for passthrough")  # fmt: skip
        if allow_other and not fusermount.may_allow_other():
            yield Finding("bad", "fuse.allow_other is not allowed to users of this machine",
                          "put the line user_allow_other into /etc/fuse.conf, or leave it "
                          "out")  # fmt: skip


def _is_in_user_namespace() -> bool:
    try:
        return Path("/proc/self/uid_map").read_text().split() != _EVERY_USER
    except FileNotFoundError:  # a kernel without them
        return False


def check_limits() -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        yield Finding("ok", "many files may be open")
    else:
        yield Finding("note", f"a mount can have no more than {hard} files open",
                      "raise the hard limit: LimitNOFILE= of the unit, or ulimit -Hn")  # fmt: skip


def check_parts(config: MountConfig) -> Iterator[Finding]:
    """What the configuration asks for and is not installed."""
    if config.fuse.engine == "pyfuse3" and not _is_installed("pyfuse3"):
        yield Finding("bad", "fuse.engine is pyfuse3, which is not installed",
                      "pip install 'csi-slayer[pyfuse3]'")  # fmt: skip
    exporter = "opentelemetry.exporter.otlp.proto.http"
    if config.tracing.endpoint is not None and not _is_installed(exporter):
        yield Finding("bad", "tracing.endpoint is set, and OpenTelemetry is not installed",
                      "pip install 'csi-slayer[otel]'")  # fmt: skip


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
