"""Mounting and unmounting, and what /proc/self/mountinfo and fusectl say.

Nothing here touches a path inside a mount: that would wait for the process that serves it, which
may be the caller.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import select
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from csi_slayer.fuse import fusermount

DEVICE: Final = "/dev/fuse"
TYPE: Final = "fuse.slayerfs"
MOUNTINFO: Final = Path("/proc/self/mountinfo")

_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_REMOUNT: Final = 32
_MS_BIND: Final = 4096

BIND_FLAGS: Final = {
    "ro": _MS_RDONLY, "nosuid": _MS_NOSUID, "nodev": _MS_NODEV, "noexec": 8,
    "noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21, "strictatime": 1 << 24,
    "nosymfollow": 256,
}  # fmt: skip
"""Options that each bind mount has of its own (mount(8)), as flags of mount(2)."""

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p,
)  # fmt: skip
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo. ``connection`` is the minor of its st_dev: what fusectl names a FUSE
    connection by."""

    mountpoint: str
    fstype: str
    source: str
    connection: int


def connect(mountpoint: str, fsname: str, *, read_only: bool, allow_other: bool) -> tuple[int, int]:
    """Mount at a directory; returns a descriptor of /dev/fuse, close-on-exec and non-blocking, and
    the number of its connection. Raises OSError.

    Set-id bits and device nodes have no effect in it. Blocks for as long as path lookup does.
    Who is not root does it by fusermount3.
    """
    real = resolve(mountpoint)
    try:
        fd = _connect(real, fsname, read_only, allow_other)
    except PermissionError:
        if not fusermount.is_needed():
            raise
        fd = fusermount.mount(real, fsname, read_only=read_only, allow_other=allow_other)
    entry = find(real)
    if entry is None:
        os.close(fd)
        raise OSError(errno.ENOENT, "the new mount is gone again", mountpoint)
    return fd, entry.connection


def _connect(mountpoint: str, fsname: str, read_only: bool, allow_other: bool) -> int:
    fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    options = f"fd={fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    options += ",default_permissions" + (",allow_other" if allow_other else "")
    try:
        _mount(fsname, mountpoint, TYPE, flags, options)
    except BaseException:
        os.close(fd)
        raise
    return fd


def bind(source: str, target: str) -> None:
    """Show what is mounted at ``source`` at ``target`` as well. Raises OSError."""
    _mount(source, target, "none", _MS_BIND, "")


def restrict(target: str, options: Collection[str]) -> None:
    """Give one bind mount these options, keys of BIND_FLAGS, and no others; set-id bits and device
    nodes never have an effect. Raises OSError."""
    flags = _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV
    for name in options:
        flags |= BIND_FLAGS[name]
    _mount("none", target, "none", flags, "")


def _mount(source: str, target: str, fstype: str, flags: int, options: str) -> None:
    if _libc.mount(
        os.fsencode(source), os.fsencode(target), fstype.encode(), flags, options.encode()
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def resolve(mountpoint: str) -> str:
    """The path without symlinks, as mountinfo has it. What is mounted there is not touched."""
    head, tail = os.path.split(os.path.abspath(mountpoint))
    path = os.path.join(os.path.realpath(head), tail)
    return path if find(path) is not None else os.path.realpath(path)


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """umount2(2); ``lazy`` is MNT_DETACH. Raises OSError (EBUSY; EINVAL if nothing is mounted).

    May wait for the file system, so not to be called on its event loop.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(mountpoint), flags):
        number = ctypes.get_errno()
        if number == errno.EPERM and fusermount.is_needed():
            fusermount.unmount(mountpoint, lazy=lazy)
            return
        raise OSError(number, os.strerror(number), mountpoint)


def is_connected(fd: int) -> bool:
    """Whether the connection of a descriptor of /dev/fuse has not ended, by umount(2) or else."""
    poll = select.poll()
    poll.register(fd, 0)
    return not poll.poll(0)


def abort(connection: int) -> bool:
    """End a connection: every request fails, now and later. False if there is none (any more).

    Raises OSError where the fusectl file system is not mounted and may not be.
    """
    with _fusectl() as connections:
        try:
            (connections / str(connection) / "abort").write_text("1")
        except FileNotFoundError:
            return False
        return True


@contextlib.contextmanager
def _fusectl() -> Iterator[Path]:
    """Where fusectl is mounted; in a container that is often nowhere, then for this moment."""
    for entry in entries():
        if entry.fstype == "fusectl":
            yield Path(entry.mountpoint)
            return
    directory = tempfile.mkdtemp(prefix="fusectl-")
    try:
        _mount("none", directory, "fusectl", _MS_NOSUID | _MS_NODEV, "")
        try:
            yield Path(directory)
        finally:
            unmount(directory, lazy=True)
    finally:
        os.rmdir(directory)


def set_readahead(connection: int, size: int) -> bool:
    """How far the kernel reads ahead in a file, bytes; INIT could only lower its 128 KiB.

    False where /sys is not writable, as in a container without privileges.
    """
    try:
        Path(f"/sys/class/bdi/0:{connection}/read_ahead_kb").write_text(str(size >> 10))
    except OSError:
        return False
    return True


def entries(mountinfo: Path = MOUNTINFO) -> list[MountEntry]:
    """All mounts of this mount namespace, those mounted last at the end."""
    return [_entry(line) for line in lines(mountinfo)]


def lines(mountinfo: Path = MOUNTINFO) -> list[str]:
    """The lines of mountinfo. The kernel escapes newlines in paths, and nothing else that
    ``splitlines`` takes for one: who chooses a path must not be able to end a line."""
    return os.fsdecode(mountinfo.read_bytes()).split("\n")[:-1]


def _entry(line: str) -> MountEntry:
    left, _, right = line.partition(" - ")
    before, after = left.split(" "), right.split(" ")
    minor = before[2].partition(":")[2]
    return MountEntry(_unescape(before[4]), after[0], _unescape(after[1]), int(minor))


def find(mountpoint: str, mountinfo: Path = MOUNTINFO) -> MountEntry | None:
    """The topmost mount at exactly this path, which must have no symlinks; None without one."""
    # A node has hundreds of mounts, and this is asked several times for each volume: only lines
    # that may be meant are taken apart.
    escaped = f" {_escape(mountpoint)} "
    found = None
    for line in lines(mountinfo):
        if escaped in line:
            entry = _entry(line)
            if entry.mountpoint == mountpoint:
                found = entry
    return found


def is_mounted(
    mountpoint: str, mountinfo: Path = MOUNTINFO, *, connection: int | None = None
) -> bool:
    """Whether one of our file systems, that of the connection if one is given, is the topmost mount
    at this path."""
    entry = find(mountpoint, mountinfo)
    if entry is None or entry.fstype != TYPE:
        return False
    return connection is None or entry.connection == connection


def is_covered(mountpoint: str, mountinfo: Path = MOUNTINFO) -> bool:
    """Whether one of our file systems is mounted at this path, and something else on top of it."""
    here = [entry.fstype for entry in entries(mountinfo) if entry.mountpoint == mountpoint]
    return TYPE in here and here[-1] != TYPE


def _escape(text: str) -> str:
    """As the kernel writes a path there (seq_path of fs/proc_namespace.c)."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", text)


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
