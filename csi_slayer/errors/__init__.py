"""The exception tree of SlayerFS.

::

    SlayerError                      errno EIO     INTERNAL
    ├── FsError(errno)               what a POSIX call answers; raised by vfs and below
    ├── ConfigError                  EINVAL        INVALID_ARGUMENT
    ├── StoreError                   EIO           UNAVAILABLE
    │   ├── ObjectNotFound           ENOENT        NOT_FOUND
    │   ├── BucketNotFound           EIO           NOT_FOUND
    │   ├── AccessDenied             EACCES        PERMISSION_DENIED
    │   ├── PreconditionFailed       ESTALE        ABORTED      If-Match / If-None-Match lost
    │   ├── InvalidRange             EIO           OUT_OF_RANGE
    │   ├── StoreFull                ENOSPC        RESOURCE_EXHAUSTED
    │   ├── StoreUnavailable         EIO           UNAVAILABLE  transient, retries used up
    │   │   └── DescriptorsUsedUp    ENFILE        UNAVAILABLE  this process has none to ask with
    │   ├── StoreIntegrityError      EIO           DATA_LOSS    truncated body, wrong length or etag
    │   ├── SourceUnreadable         EIO           INTERNAL     the local file that was to be sent
    │   │   └── SourceShort          EIO           INTERNAL     it was cut off meanwhile
    │   └── StoreUnsupported         EOPNOTSUPP    UNIMPLEMENTED
    │       └── KeyObstructed        an object is where a directory has to be, or the reverse
    ├── CatalogError                 EIO           INTERNAL     SQLite says no
    ├── CacheError                   EIO           INTERNAL
    │   ├── CacheFull                ENOSPC        RESOURCE_EXHAUSTED
    │   └── CacheCorrupt             EIO           DATA_LOSS    a block's checksum differs
    └── VolumeError                  EIO           INTERNAL     of volumes as a whole, not of files
        ├── VolumeNotFound           ENOENT        NOT_FOUND
        ├── VolumeConflict           EEXIST        ALREADY_EXISTS   the same name, but different
        ├── VolumeBusy               EBUSY         ABORTED      something is under way: ask again
        ├── VolumeInUse              EBUSY         FAILED_PRECONDITION
        ├── CapacityOutOfRange       EINVAL        OUT_OF_RANGE
        └── MountFailed              EIO           INTERNAL     the worker did not mount, and why

Every foreign exception is translated in exactly one place (store, catalog, or at the OS call).
Only ``fuse`` turns ``errno`` into a reply, and only ``csi`` turns ``grpc_code`` into a status.
"""

from __future__ import annotations

import errno as _errno
import os


class SlayerError(Exception):
    """Base of all errors of this project.

    ``errno`` is what the kernel is answered; ``grpc_code`` is the name of the gRPC status code.
    """

    errno: int = _errno.EIO
    grpc_code: str = "INTERNAL"


class FsError(SlayerError):
    """A POSIX answer: carries just an errno (``FsError(errno.ENOENT)``)."""

    def __init__(self, errno: int, message: str | None = None) -> None:
        super().__init__(message or os.strerror(errno))
        self.errno = errno


class ConfigError(SlayerError):
    """The configuration or an option is wrong; the message says which and how to mend it."""

    errno = _errno.EINVAL
    grpc_code = "INVALID_ARGUMENT"


class StoreError(SlayerError):
    """The object store did not do what was asked; ``refused``: it said so, and that it never will,
    while after other errors it may have been done all the same."""

    grpc_code = "UNAVAILABLE"
    refused = False


class ObjectNotFound(StoreError):
    errno = _errno.ENOENT
    grpc_code = "NOT_FOUND"


class BucketNotFound(StoreError):
    """Not ENOENT to a program: it would take each of its files for removed, and act on it."""

    grpc_code = "NOT_FOUND"


class AccessDenied(StoreError):
    errno = _errno.EACCES
    grpc_code = "PERMISSION_DENIED"


class PreconditionFailed(StoreError):
    """The object is not the version that If-Match or If-None-Match asked for."""

    errno = _errno.ESTALE
    grpc_code = "ABORTED"


class InvalidRange(StoreError):
    grpc_code = "OUT_OF_RANGE"


class StoreFull(StoreError):
    """The store has no more room, or gives this bucket or identity none."""

    errno = _errno.ENOSPC
    grpc_code = "RESOURCE_EXHAUSTED"


class StoreUnavailable(StoreError):
    """A transient failure that outlasted the retries."""


class DescriptorsUsedUp(StoreUnavailable):
    """This process, or the machine, has as many files open as it may: the store was not asked."""

    errno = _errno.ENFILE

    @classmethod
    def is_meant_by(cls, error: BaseException) -> bool:
        """Whether the operating system says so by this."""
        return isinstance(error, OSError) and error.errno in (_errno.EMFILE, _errno.ENFILE)


class StoreIntegrityError(StoreError):
    """What came back is not what was asked for: truncated, of a wrong length or a wrong version."""

    grpc_code = "DATA_LOSS"


class SourceUnreadable(StoreError):
    """The local file that was to be sent cannot be read, or is shorter than announced: the store
    has nothing to do with it."""

    grpc_code = "INTERNAL"


class SourceShort(SourceUnreadable):
    """The local file that was to be sent ended before what was announced."""

    def __init__(self, message: str = "the file to send is shorter than announced") -> None:
        super().__init__(message)


class StoreUnsupported(StoreError):
    errno = _errno.EOPNOTSUPP
    grpc_code = "UNIMPLEMENTED"
    refused = True


class KeyObstructed(StoreUnsupported):
    """Stores that keep objects as files cannot hold an object and others below its key."""


class CatalogError(SlayerError):
    """The inode table could not be read or changed."""


class CacheError(SlayerError):
    """The node cache failed."""


class CacheFull(CacheError):
    errno = _errno.ENOSPC
    grpc_code = "RESOURCE_EXHAUSTED"


class CacheCorrupt(CacheError):
    """Cached bytes differ from their checksum; the block has been dropped."""

    grpc_code = "DATA_LOSS"


class VolumeError(SlayerError):
    """Provisioning or publishing a volume failed."""


class VolumeNotFound(VolumeError):
    errno = _errno.ENOENT
    grpc_code = "NOT_FOUND"


class VolumeConflict(VolumeError):
    """Something of this name exists and is not what was asked for."""

    errno = _errno.EEXIST
    grpc_code = "ALREADY_EXISTS"


class VolumeBusy(VolumeError):
    """An operation on the volume is under way; the same call again joins it or succeeds."""

    errno = _errno.EBUSY
    grpc_code = "ABORTED"


class VolumeInUse(VolumeError):
    """The volume's state does not allow this now; the message says what has to happen first."""

    errno = _errno.EBUSY
    grpc_code = "FAILED_PRECONDITION"


class CapacityOutOfRange(VolumeError):
    errno = _errno.EINVAL
    grpc_code = "OUT_OF_RANGE"


class MountFailed(VolumeError):
    """The worker said why; ``code`` is the gRPC code of its reason."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.grpc_code = code
