"""``csi-slayer mount``."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer

from csi_slayer.cache.layout import Layout
from csi_slayer.cli.ending import end_worker
from csi_slayer.cli.environment import check_named, with_credentials
from csi_slayer.cli.leftover import is_nothing, tell_of_unsaved
from csi_slayer.cli.options import Options, extra
from csi_slayer.cli.output import (
    console,
    errors,
    fail,
    failing,
    terminable,
    warn_of_exposed_secrets,
    warn_of_little_room,
)
from csi_slayer.cli.reach import reached
from csi_slayer.config import MountConfig, load_config
from csi_slayer.config.plain import check_text
from csi_slayer.fuse import mount as mounts
from csi_slayer.fuse.init import Capabilities
from csi_slayer.node import registry
from csi_slayer.node.lock import is_locked
from csi_slayer.node.supervise import supervise
from csi_slayer.worker import channel
from csi_slayer.worker.spec import WorkerSpec, state_directory, volume_id

START_TIMEOUT = 60.0
"""Seconds within which a volume is mounted or the reason is known."""

_FILES = (
    "AWS_CA_BUNDLE", "AWS_CONFIG_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "SSL_CERT_FILE",
)  # fmt: skip
"""Variables that name files which a mount's processes read."""

_LEFT = (
    "; what the last mount had still to upload stays staged, and nobody uploads it until the volume"
    " is mounted here again"
)

EPILOG = """\b
[bold]Examples[/bold]
  csi-slayer mount s3://bucket/prefix /mnt --endpoint http://127.0.0.1:9000
  csi-slayer mount file:///srv/objects /mnt
  csi-slayer mount s3://datasets /data --read-only --cache-capacity 100GiB
  csi-slayer mount --config volume.yaml /mnt
Credentials come from the environment (AWS_ACCESS_KEY_ID...), a profile, a web identity, or the
configuration file; never from an argument.
"""


def mount(
    source: Annotated[
        str | None,
        typer.Argument(help="s3://bucket/prefix or file:///directory; else the file's store.url"),
    ] = None,
    mountpoint: Annotated[
        str | None,  # no Path: typer would ask what is there, and wait for a mount that hangs
        typer.Argument(help="An existing directory, best an empty one."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML or TOML file with all options.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 service.")] = None,
    region: Annotated[str | None, typer.Option(help="S3 region.")] = None,
    profile: Annotated[str | None, typer.Option(help="AWS profile for credentials.")] = None,
    read_only: Annotated[
        bool | None, typer.Option("--read-only", "-r", help="Refuse changes.")
    ] = None,
    durability: Annotated[
        str | None, typer.Option(help="When written data is in the store: close|fsync|writeback.")
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Directory of the cache.")] = None,
    cache_capacity: Annotated[str | None, typer.Option(help="Its capacity, such as 20GiB.")] = None,
    metadata_ttl: Annotated[
        str | None, typer.Option(help="How long names and attributes are trusted, such as 10s.")
    ] = None,
    option: Options = None,
    foreground: Annotated[bool, typer.Option("--foreground", "-f", help="Stay; log here.")] = False,
) -> None:
    """Mount a bucket, a prefix or a local directory of objects."""
    if config is not None and source is not None and mountpoint is None:
        mountpoint, source = source, None
    if not mountpoint or (source is None and config is None):
        fail("say what to mount and where: csi-slayer mount s3://bucket /mnt")
    overrides: dict[str, object] = {
        "store.url": source, "store.endpoint": endpoint, "store.region": region,
        "store.profile": profile, "volume.read_only": read_only, "volume.durability": durability,
        "cache.directory": str(cache_dir.absolute()) if cache_dir else None,
        "cache.capacity": cache_capacity, "volume.metadata_ttl": metadata_ttl,
    }  # fmt: skip
    with failing():
        overrides |= extra(option)
        _make_absolute(os.environ)
        configuration = with_credentials(load_config(config, overrides))
        Capabilities.without(configuration.fuse.disable)  # a wrong name is known at once
        target = mounts.resolve(mountpoint)
        check_named("the mount point", target, check_text)
        _check_mountpoint(configuration, target)
        _check_outside(configuration, target)
        _start(configuration, target, foreground)
        # Last: a mount that fails says one thing.
        warn_of_exposed_secrets(config)
        warn_of_little_room(configuration.cache.directory, configuration.cache.min_free)


def _make_absolute(environment: MutableMapping[str, str]) -> None:
    """Relative names of files are meant from here; the mount's processes work elsewhere."""
    for variable in _FILES:
        path = environment.get(variable)
        if path and path[0] not in "/~":
            environment[variable] = os.path.abspath(path)


def _check_mountpoint(config: MountConfig, path: str) -> None:
    """Nothing alive is mounted there, and it is a directory. Never touches a mount."""
    if mounts.is_mounted(path):
        entry = registry.find(path)
        volume = volume_id(config, path)
        states = [str(state_directory(config, volume))]
        if entry is not None:
            states.append(entry.state)
        locks = {is_locked(state) for state in states} - {None}
        if locks != {False}:
            fail(f"{path} is a mount point already: csi-slayer umount {shlex.quote(path)} first")
        _remove_dead(path)
        if entry is not None and is_nothing(entry):
            registry.remove(entry.volume)
        elif entry is not None and entry.volume != volume:
            tell_of_unsaved(entry)  # of another one, which stays registered
    if not os.path.isdir(path):
        if os.path.lexists(path):
            fail(f"{path} is not a directory: name one, best an empty one")
        fail(f"{path} does not exist: mkdir -p {shlex.quote(path)} first")


def _check_outside(config: MountConfig, path: str) -> None:
    """What the worker needs is not below the mount, nor the mount among its objects: it would have
    to wait for itself. Nor is the cache among the objects: whoever reads them all would fill it
    with itself, and ``rm`` of all files would take away what is staged."""
    mountpoint = ("the mount point", path)
    cache = ("the cache directory", os.path.realpath(config.cache.directory))
    _check_not_below(cache, mountpoint)
    sockets = os.path.realpath(registry.run_directory())
    for directory in ("/proc", "/dev", "/sys", os.path.realpath(sys.prefix), sockets):
        _check_not_below(("what every mount needs,", directory), mountpoint)
    for setting, file in _files(config):
        _check_not_below((setting, os.path.realpath(file)), mountpoint)
    if config.store.url.startswith("file://"):
        real = os.path.realpath(config.store.url.removeprefix("file://"))
        objects = ("the directory of objects", real)
        _check_not_below(objects, mountpoint)
        _check_not_below(mountpoint, objects)
        _check_not_below(cache, objects)


def _files(config: MountConfig) -> Iterator[tuple[str, str]]:
    """What a worker opens whenever one begins, or later, with the setting that names it."""
    listen = config.metrics.listen or ""
    given = {
        "store.ca_bundle": config.store.ca_bundle,
        "store.web_identity_token_file": config.store.web_identity_token_file,
        "log.file": config.log.file,
        "metrics.listen": listen.removeprefix("unix:") if listen.startswith("unix:") else None,
    } | {variable: os.environ.get(variable) for variable in _FILES}
    for setting, file in given.items():
        if file:
            yield setting, os.path.expanduser(file)


def _check_not_below(inner: tuple[str, str], outer: tuple[str, str]) -> None:
    """Both are what it is called and its real path."""
    if os.path.commonpath((inner[1], outer[1])) == outer[1]:
        fail(f"{' '.join(inner)} is below {' '.join(outer)}: name another place")


def _remove_dead(path: str) -> None:
    """Take away a mount that no process serves any more; what it had staged is not lost."""
    found = mounts.find(path)
    try:
        if found is not None:
            mounts.abort(found.connection)  # or whoever waits for it would wait for ever
        mounts.unmount(path, lazy=True)
    except OSError as error:
        fail(f"{path} was left by a worker that is gone, and cannot be unmounted: {error.strerror}")
    console.print(f"the mount at {path} was left by a worker that is gone: replaced")


def _start(config: MountConfig, mountpoint: str, foreground: bool) -> None:
    volume = volume_id(config, mountpoint)
    state = state_directory(config, volume)
    own_log = state / "worker.log"
    log = config.log.file or own_log
    if not foreground:
        config = config.model_copy(update={"log": config.log.model_copy(update={"file": log})})
    spec: dict[str, Any] = WorkerSpec(
        volume=volume,
        mountpoint=mountpoint,
        control=str(registry.control_path(volume)),
        config=config.to_spec().decode(),
    ).to_message()
    entry = {
        "volume": volume, "url": config.store.url, "mountpoint": mountpoint,
        "control": spec["control"], "state": str(state), "cache": str(config.cache.directory),
    }  # fmt: skip
    Layout(config.cache.directory)  # before anything is written there: it may be somebody else's
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cache directory {config.cache.directory}: {error.strerror}")
    taken_over = _take_over(config, volume, str(state))
    if foreground:
        raise typer.Exit(_stay(spec, entry))
    answer = _in_background({"spec": spec, "entry": entry, "log": str(own_log)})
    if "error" in answer:
        fail(f"{answer['error']}{_LEFT if taken_over else ''}")
    console.print(f"{config.store.url} is mounted at {mountpoint} (log: {log})")


def _take_over(config: MountConfig, volume: str, state: str) -> bool:
    """End a worker that only uploads what was written before the volume was unmounted here: the
    new one goes on with it. Whether there was one. Raises SlayerError if the store does not
    answer, which would keep the new one from beginning: then the old one goes on waiting for it."""
    entry = next((entry for entry in registry.mounts() if entry.volume == volume), None)
    # Without an entry it is about to be mounted: its supervisor has the last word.
    if entry is not None and entry.state == state and is_locked(state):
        asyncio.run(_ask(config))
        if end_worker(entry, unmounting=False):
            console.print("what the last mount had still to upload goes on from here")
            return True
    return False


async def _ask(config: MountConfig) -> None:
    async with reached(config):
        return


def _stay(spec: dict[str, Any], entry: dict[str, str]) -> int:
    ours, theirs = channel.pair()
    status = supervise(spec, entry, sys.stderr.fileno(), theirs)
    ours.setblocking(False)
    try:
        received = channel.receive(ours)
    except BlockingIOError:
        received = None
    if received is not None and "error" in received[0]:
        errors.print(f"csi-slayer: {received[0]['error']}", markup=False)
    else:
        tell_of_unsaved(registry.Mounted(**entry, supervisor=os.getpid()))
    return status


def _in_background(message: dict[str, Any]) -> dict[str, Any]:
    """Start the supervisor as a process of its own; returns how the mount began."""
    ours, theirs = channel.pair()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "csi_slayer.node.supervise", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        theirs.close()
        channel.send(ours, message)
        ours.settimeout(START_TIMEOUT)
        try:
            with terminable():
                received = channel.receive(ours)
        except KeyboardInterrupt:
            process.terminate()
            raise
        except TimeoutError:
            process.terminate()
            return {"error": f"the volume was not mounted within {START_TIMEOUT:.0f} s; "
                             f"see {message['log']}"}  # fmt: skip
        if received is None:
            return {"error": f"the supervisor ended at once; see {message['log']}"}
        return received[0]


mount.__doc__ = f"{mount.__doc__}\n\n{EPILOG}"
