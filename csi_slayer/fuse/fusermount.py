"""Mounting and unmounting for who is not root, by ``fusermount3``, libfuse's set-uid program.

Its protocol is that of libfuse's ``lib/mount.c``: a socket whose number is in the environment, over
which the descriptor of /dev/fuse comes. /etc/fuse.conf says what users may ask of it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Final

PROGRAM: Final = "fusermount3"
CONFIGURATION: Final = "/etc/fuse.conf"

_SOCKET: Final = "_FUSE_COMMFD"
_SECONDS: Final = 30.0


def is_needed() -> bool:
    """Whether it does what this process may not do itself; root without the privilege has not got
    it by a set-uid program either."""
    return os.geteuid() != 0 and shutil.which(PROGRAM) is not None


def is_privileged() -> bool:
    """Whether the program gets root's rights where it is started."""
    path = shutil.which(PROGRAM)
    if path is None:
        return False
    found, flags = os.stat(path), os.statvfs(path).f_flag
    as_root = bool(found.st_mode & stat.S_ISUID) and found.st_uid == 0
    return (as_root or _has_capabilities(path)) and not flags & os.ST_NOSUID


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def may_allow_other() -> bool:
    """Whether users may let others in; True also where that cannot be read."""
    try:
        lines = Path(CONFIGURATION).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return "user_allow_other" in (line.strip() for line in lines)


def mount(mountpoint: str, fsname: str, *, read_only: bool, allow_other: bool) -> int:
    """Mount at a directory; returns the descriptor of /dev/fuse, close-on-exec and non-blocking.

    Blocks. Raises OSError with what the program says.
    """
    name = re.sub(r"([\\,])", r"\\\1", fsname)
    options = f"fsname={name},subtype=slayerfs,nosuid,nodev,default_permissions"
    options += (",ro" if read_only else "") + (",allow_other" if allow_other else "")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            _run(
                ("-o", options, "--", mountpoint),
                {_SOCKET: str(theirs.fileno())},
                (theirs.fileno(),),
            )
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    if not fds:
        raise OSError(errno.EPROTO, f"{PROGRAM} has sent no descriptor", mountpoint)
    os.set_inheritable(fds[0], False)
    os.set_blocking(fds[0], False)
    return fds[0]


def unmount(mountpoint: str, *, lazy: bool) -> None:
    """Blocks. Raises OSError: EBUSY, or EPERM for what is not this user's, of which the program
    says that it is not there."""
    try:
        _run(("-u", *(("-z",) if lazy else ()), "--", mountpoint), {}, ())
    except OSError as error:
        number = error.errno or errno.EPERM
        raise OSError(number, os.strerror(number), mountpoint) from error


def _run(args: tuple[str, ...], environment: dict[str, str], fds: tuple[int, ...]) -> None:
    try:
        done = subprocess.run(
            (PROGRAM, *args),
            env=os.environ | environment | {"LC_ALL": "C"},
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.ETIMEDOUT, f"{PROGRAM} does not end", args[-1]) from None
    if done.returncode != 0:
        said = os.fsdecode(done.stderr).strip().replace("\n", "; ")
        number = errno.EBUSY if said.endswith(os.strerror(errno.EBUSY)) else errno.EPERM
        raise OSError(number, said or f"{PROGRAM} has failed", args[-1])
