"""Showing a volume at a pod's target directory, and taking it away again.

An unmounted directory is never shown as the volume: what is mounted at both ends is checked, by
the connection's number in mountinfo, before and after. Nothing here touches a path inside a mount,
and each component below the kubelet's directory is refused if it is a symbolic link.

All of it may wait for the kernel: to be called in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from csi_slayer.errors import ConfigError, MountFailed
from csi_slayer.fuse import mount as mounts

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

LAYERS = 16
"""Mounts that are taken away from one target at most: it should have one."""


LONGEST_NAME = 255
"""Bytes of one name in a path (NAME_MAX)."""


class Binder:
    """``kubelet``: the directory that all targets are in. ``own``: directories of the driver, in
    which no target is, and which none may cover."""

    def __init__(self, kubelet: Path, own: Iterable[Path] = ()) -> None:
        self._given = str(kubelet)
        # mountinfo shows where it really is.
        self.root = os.path.realpath(kubelet)
        self._own = [Path(os.path.realpath(path)) for path in own]
        self._pods = Path(self.root, "pods")

    def real(self, target: str) -> str:
        """The target as mountinfo has it. Raises ConfigError if it is not below the kubelet's
        directory, not in its shortest form (but for a slash at its end), has a name that is too
        long, or is a directory of the driver or of all pods."""
        target = target.rstrip("/")
        plain = "\0" not in target
        normal = plain and os.path.isabs(target) and os.path.normpath(target) == target
        inside = os.path.relpath(target, self._given) if normal else ".."
        if inside.split("/")[0] in (".", ".."):
            raise ConfigError(f"target path: expected a path below {self._given}, without ..")
        if any(len(os.fsencode(name)) > LONGEST_NAME for name in inside.split("/")):
            raise ConfigError(f"target path: a name in it has more than {LONGEST_NAME} bytes")
        real = Path(self.root, inside)
        covered = any(path.is_relative_to(real) for path in (*self._own, self._pods))
        if covered or any(real.is_relative_to(path) for path in self._own):
            raise ConfigError(
                "target path: the driver's own directory, or one that others are in: name a pod's"
            )
        return str(real)

    def bind(
        self, private: str, target: str, connection: int, options: Collection[str] = ()
    ) -> None:
        """Show the mount of ``connection`` at ``private`` at ``target``, which is made if it is
        not there; if it is shown there already, it gets the options. A directory with something
        in it is refused: a mount would hide it, and could not be taken away again. Raises
        MountFailed, ConfigError."""
        if shown(target, connection):
            # Whoever bound it may have been killed before it had its options.
            try:
                mounts.restrict(target, options)
            except OSError as error:
                raise MountFailed(f"cannot restrict {target}: {error.strerror}") from error
            return
        if not shown(private, connection):
            raise MountFailed(f"nothing is mounted at {private} any more: try again", "UNAVAILABLE")
        self.clear(target)
        try:
            with self._directory(target, make=True) as fd:
                if os.listdir(f"/proc/self/fd/{fd}"):
                    raise MountFailed(
                        f"{target} is not empty, and nothing is mounted there: move its content"
                        " away, which is in no volume",
                        "FAILED_PRECONDITION",
                    )
                # By descriptor: the path may be something else by now.
                mounts.bind(private, f"/proc/self/fd/{fd}")
            if not shown(target, connection):
                raise MountFailed(f"{target} shows something else than the volume: try again")
            mounts.restrict(target, options)
        except OSError as error:
            self._undo(target)
            raise MountFailed(f"cannot mount at {target}: {error.strerror}") from error
        except MountFailed:
            self._undo(target)
            raise

    @staticmethod
    def _undo(target: str) -> None:
        if mounts.is_mounted(target):
            with contextlib.suppress(OSError):
                mounts.unmount(target, lazy=True)

    def clear(self, target: str) -> None:
        """Take away what is mounted at the target, if it is one of ours. Raises MountFailed."""
        for _ in range(LAYERS):
            entry = mounts.find(target)
            if entry is None:
                return
            if entry.fstype != mounts.TYPE:
                raise MountFailed(
                    f"{target} has a {entry.fstype} mount that is not of this driver: unmount it"
                )
            unmount(target)
        raise MountFailed(f"{target} has more than {LAYERS} mounts: unmount them")

    def remove(self, target: str) -> bool:
        """Remove the directory that a mount was shown at. No error if there is none; False if
        something is in it, or it is no directory: nobody but its owner can tell whether that may
        go. Raises MountFailed, ConfigError."""
        parent, name = os.path.split(target)
        try:
            with self._directory(parent, make=False) as fd:
                os.rmdir(name, dir_fd=fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise MountFailed(f"cannot remove {target}: {error.strerror}") from error
        return True

    @contextlib.contextmanager
    def _directory(self, path: str, *, make: bool) -> Iterator[int]:
        """A descriptor of a directory below the root, reached without symbolic links."""
        fd = os.open(self.root, _STEP)
        try:
            names = [name for name in os.path.relpath(path, self.root).split("/") if name != "."]
            for position, name in enumerate(names):
                if make and position == len(names) - 1:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o750, dir_fd=fd)
                try:
                    below = os.open(name, _STEP, dir_fd=fd)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise ConfigError(
                            f"{path}: {name} is a symbolic link or no directory: refused"
                        ) from None
                    if make and error.errno == errno.ENOENT:
                        raise MountFailed(
                            f"{path}: its parent directory does not exist: whoever publishes has"
                            " to make it first",
                            "FAILED_PRECONDITION",
                        ) from None
                    raise
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)


def shown(path: str, connection: int) -> bool:
    """Whether the topmost mount at the path is that of the connection."""
    return mounts.is_mounted(path, connection=connection)


def alive(fuse_fd: int | None) -> bool:
    """Whether a connection to the kernel still has its mount."""
    return fuse_fd is not None and mounts.is_connected(fuse_fd)


def unmount(path: str) -> None:
    """Unmount; from under whoever has files open there, if it must be. Raises MountFailed."""
    for lazy in (False, True):
        try:
            mounts.unmount(path, lazy=lazy)
            return
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return  # nothing is mounted there any more
            if error.errno != errno.EBUSY or lazy:
                raise MountFailed(f"cannot unmount {path}: {error.strerror}") from error
