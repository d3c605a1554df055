"""``csi-slayer doctor``: what of kernel, FUSE, permissions, cache and store is missing."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from csi_slayer.cli.environment import with_credentials
from csi_slayer.cli.options import Options, extra
from csi_slayer.cli.output import console, failing, terminable, warn_of_exposed_secrets
from csi_slayer.cli.reach import reached
from csi_slayer.cli.rights import Rights
from csi_slayer.config import MountConfig, load_config
from csi_slayer.config.node import default_cache_directory
from csi_slayer.errors import SlayerError
from csi_slayer.fuse import fusermount
from csi_slayer.fuse import mount as mounts
from csi_slayer.store.base import ObjectStore

Level = Literal["ok", "note", "bad"]

CAP_SYS_ADMIN = 21

OPEN_FILES = 16384
"""Files that a mount should be able to have open."""

_STACKED = ("overlay", "ecryptfs")
"""File systems on others: FUSE passthrough takes no backing file from there."""

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse")

_STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "bad": "red"}


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
        yield Finding("bad", f"{device}: {error.strerror}", "run as root, or allow the device")


def check_privileges() -> Iterator[Finding]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            if int(line.split()[1], 16) >> CAP_SYS_ADMIN & 1:
                yield Finding("ok", "CAP_SYS_ADMIN: may mount and use passthrough")
            elif fusermount.is_needed():
                yield Finding("note", f"no CAP_SYS_ADMIN: {fusermount.PROGRAM} mounts, and every "
                              "read and write goes through the worker",
                              "run as root (sudo) for passthrough")  # fmt: skip
            else:
                yield Finding(
                    "bad",
                    "no CAP_SYS_ADMIN: may not mount",
                    "run as root (sudo), or "
                    f"install fuse3, whose {fusermount.PROGRAM} mounts for users",
                )


def check_limits() -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= OPEN_FILES:
        yield Finding("ok", "many files may be open")
    else:
        yield Finding("note", f"a mount can have no more than {hard} files open",
                      "raise the hard limit: LimitNOFILE= of the unit, or ulimit -Hn")  # fmt: skip


def check_cache(directory: Path) -> Iterator[Finding]:
    probe = directory
    try:
        while not probe.exists() and probe != probe.parent:
            probe = probe.parent
    except OSError as error:
        yield Finding("bad", f"cache directory {directory}: {error.strerror}",
                      "set cache.directory")  # fmt: skip
        return
    if not os.access(probe, os.W_OK | os.X_OK):
        shown = shlex.quote(str(directory))
        yield Finding("bad", f"cache directory {directory} cannot be written",
                      f"mkdir -p {shown} && chown {os.geteuid()} {shown}, or set "
                      "cache.directory")  # fmt: skip
        return
    free = shutil.disk_usage(probe).free
    level: Level = "ok" if free > 2 << 30 else "note"
    yield Finding(level, f"cache directory {directory}: {free >> 30} GiB free",
                  "" if level == "ok" else "give the cache a disk with more room")  # fmt: skip
    yield _check_file_system(probe)
    yield _check_xattrs(probe)


def _check_file_system(directory: Path, mountinfo: Path = mounts.MOUNTINFO) -> Finding:
    path = f"{directory.resolve()}/"
    fstype, longest = "", 0
    for entry in mounts.entries(mountinfo):
        above = entry.mountpoint.rstrip("/") + "/"
        if path.startswith(above) and len(above) >= longest:
            fstype, longest = entry.fstype, len(above)
    if fstype in _STACKED:
        return Finding("note", f"the cache is on {fstype}: every read and write goes through the "
                       "worker", "give the cache a directory of a disk (in a container a volume): "
                       "the kernel serves its files by itself then")  # fmt: skip
    if fstype.partition(".")[0] in _REMOTE:
        return Finding("note", f"the cache is on {fstype}, which is not a local disk",
                       "put the cache on a local SSD")  # fmt: skip
    return Finding("ok", f"the cache is on {fstype}")


def _check_xattrs(directory: Path) -> Finding:
    try:
        # A new file, whoever else may write there: the directory may be /tmp.
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".slayerfs-doctor-") as file:
            try:
                os.setxattr(file.fileno(), "user.slayerfs", b"1")
            except OSError:
                os.setxattr(file.fileno(), "trusted.slayerfs", b"1")
        return Finding("ok", "the cache's file system keeps extended attributes")
    except OSError as error:
        return Finding("bad", f"no extended attributes in {directory}: {error.strerror}",
                       "put the cache on ext4, xfs, btrfs or tmpfs")  # fmt: skip


async def check_store(config: MountConfig) -> list[Finding]:
    """Connect, list, unless the volume is read-only write, and say what is wrong in the store's
    own terms."""
    url, started = config.store.url, time.monotonic()
    try:
        async with reached(config) as store:
            millis = (time.monotonic() - started) * 1000
            found = [Finding("ok", f"{url} answers and can be listed ({millis:.0f} ms)")]
            if not config.volume.read_only:
                found += await _check_rights(store, url)
            return found
    except SlayerError as error:
        return [Finding("bad", f"{url}: {error}")]


async def _check_rights(store: ObjectStore, url: str) -> list[Finding]:
    rights = Rights(store)
    millis = await rights.find_out() * 1000
    if rights.problems:
        own = "" if url.startswith("s3:") else "look at the directory's owner, mode and disk"
        return [Finding("bad", problem.text, own or problem.mend) for problem in rights.problems]
    return [Finding("ok", f"{url} takes what is written ({millis:.0f} ms)")]


def doctor(
    source: Annotated[
        str | None, typer.Argument(help="A volume to try: s3://bucket/prefix or file:///directory.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Its YAML or TOML file.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 service.")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region.")] = None,
    profile: Annotated[str | None, typer.Option(help="AWS profile for credentials.")] = None,
    read_only: Annotated[
        bool | None, typer.Option("--read-only", "-r", help="Try nothing that writes to the store.")
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Directory of the cache.")] = None,
    option: Options = None,
) -> None:
    """Say what of kernel, FUSE, permissions, cache and store is missing, and how to mend it.

    Of a volume a small object below .slayerfs/ is written, copied and deleted again.

    \b
    [bold]Examples[/bold]
      csi-slayer doctor
      csi-slayer doctor s3://bucket --endpoint http://127.0.0.1:9000
      csi-slayer doctor s3://datasets --read-only
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        check_kernel, check_fuse, check_privileges, check_limits,
    ]  # fmt: skip
    found = [finding for check in checks for finding in check()]
    with failing():
        if source is not None or config is not None:
            overrides: dict[str, object] = {
                "store.url": source, "store.endpoint": endpoint, "store.region": region,
                "store.profile": profile, "volume.read_only": read_only,
                "cache.directory": str(cache_dir.absolute()) if cache_dir else None,
            }  # fmt: skip
            loaded = with_credentials(load_config(config, overrides | extra(option)))
            warn_of_exposed_secrets(config)
            found += check_cache(loaded.cache.directory)
            with terminable():  # what was written is deleted all the same
                found += asyncio.run(check_store(loaded))
        else:
            found += check_cache(cache_dir or default_cache_directory())
    for finding in found:
        console.print(f"{finding.level:>4}  ", style=_STYLES[finding.level], end="")
        console.print(finding.text)
        if finding.mend:
            console.print(f"      {finding.mend}")
    if any(finding.level == "bad" for finding in found):
        raise typer.Exit(1)
