"""``csi-slayer doctor``: what of kernel, FUSE, permissions, cache and store is missing."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from csi_slayer.cli.environment import with_credentials
from csi_slayer.cli.machine import (
    Finding,
    Level,
    check_fuse,
    check_kernel,
    check_limits,
    check_parts,
    check_privileges,
)
from csi_slayer.cli.options import Options, extra
from csi_slayer.cli.output import console, failing, terminable, warn_of_exposed_secrets
from csi_slayer.cli.reach import reached
from csi_slayer.cli.rights import Rights
from csi_slayer.config import MountConfig, load_config
from csi_slayer.config.node import default_cache_directory
from csi_slayer.errors import SlayerError
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse.init import Capabilities
from csi_slayer.store.base import ObjectStore

_STACKED = ("overlay", "ecryptfs")
"""File systems on others: FUSE passthrough takes no backing file from there."""

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "fuse")

_STYLES: dict[Level, str] = {"ok": "green", "note": "yellow", "bad": "red"}


def check_cache(directory: Path) -> Iterator[Finding]:
    probe = directory
    try:
        while not probe.exists() and probe != probe.parent:
            probe = probe.parent
    except OSError as error:
        yield Finding("bad", f"cache directory {directory}: {error.strerror}",
                      "set cache.directory")  # fmt: skip
        return
    if not probe.is_dir():
        yield Finding("bad", f"cache directory {directory}: {probe} is not a directory",
                      "set cache.directory to one")  # fmt: skip
        return
    if os.statvfs(probe).f_flag & os.ST_RDONLY:
        yield Finding("bad", f"cache directory {directory} is on a read-only file system",
                      "set cache.directory to one that can be written")  # fmt: skip
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
            refusal = _xattr_refusal(file.fileno())
    except OSError as error:
        return Finding("bad", f"no file can be made in {directory}: {error.strerror}",
                       "give the cache a disk with room, also for more files "
                       "(df -h, df -i)")  # fmt: skip
    if refusal is not None:
        return Finding("bad", f"no extended attributes in {directory}: {refusal}",
                       "put the cache on ext4, xfs, btrfs or tmpfs")  # fmt: skip
    return Finding("ok", "the cache's file system keeps extended attributes")


def _xattr_refusal(file: int) -> str | None:
    for name in ("user.slayerfs", "trusted.slayerfs"):
        try:
            os.setxattr(file, name, b"1")
        except OSError as error:
            refusal = error.strerror
        else:
            return None
    return refusal


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
    found = [*check_kernel(), *check_fuse()]
    with failing():
        if source is not None or config is not None:
            overrides: dict[str, object] = {
                "store.url": source, "store.endpoint": endpoint, "store.region": region,
                "store.profile": profile, "volume.read_only": read_only,
                "cache.directory": str(cache_dir.absolute()) if cache_dir else None,
            }  # fmt: skip
            loaded = with_credentials(load_config(config, overrides | extra(option)))
            Capabilities.without(loaded.fuse.disable)  # a wrong name is known at once
            warn_of_exposed_secrets(config)
            found += [*check_privileges(loaded.fuse.allow_other), *check_limits()]
            found += [*check_parts(loaded), *check_cache(loaded.cache.directory)]
            with terminable():  # what was written is deleted all the same
                found += asyncio.run(check_store(loaded))
        else:
            found += [*check_privileges(), *check_limits()]
            found += check_cache(cache_dir or default_cache_directory())
    for finding in found:
        console.print(f"{finding.level:>4}  ", style=_STYLES[finding.level], end="")
        console.print(finding.text)
        if finding.mend:
            console.print(f"      {finding.mend}")
    if any(finding.level == "bad" for finding in found):
        raise typer.Exit(1)
