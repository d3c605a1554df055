"""Backing files: registering a local file that the kernel may read and write by itself.

FUSE_DEV_IOC_BACKING_OPEN and _CLOSE, Linux 6.9. Needs CAP_SYS_ADMIN in the first user namespace.
"""

from __future__ import annotations

import errno
import fcntl

from csi_slayer.errors import FsError
from csi_slayer.fuse import protocol as p


class Backing:
    """The backing files of one connection. ``usable`` turns False where the kernel forbids it."""

    def __init__(self, fd: int, negotiated: bool) -> None:
        self._fd = fd
        self.usable = negotiated

    def open(self, fd: int) -> int:
        """Register a file; returns its id (> 0). The kernel keeps the file open by itself.

        Raises FsError: EPERM without the capability, ELOOP for a file on a stacked file system,
        EOPNOTSUPP where passthrough was not negotiated.
        """
        if not self.usable:
            raise FsError(errno.EOPNOTSUPP, "passthrough is off")
        try:
            # The kernel's answer is the ioctl's result; a mutable buffer makes Python return that.
            request = bytearray(p.BACKING_MAP.pack(fd, 0, 0))
            backing_id: int = fcntl.ioctl(self._fd, p.BACKING_OPEN, request, True)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ELOOP):
                self.usable = False  # the one for this process, the other for this cache directory
            raise FsError(error.errno or errno.EIO, f"no backing file: {error.strerror}") from error
        return backing_id

    def close(self, backing_id: int) -> None:
        """Give an id back; one that the kernel does not know is let pass."""
        try:
            fcntl.ioctl(self._fd, p.BACKING_CLOSE, bytearray(backing_id.to_bytes(4, "little")))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.EPERM):
                raise FsError(error.errno or errno.EIO) from error
