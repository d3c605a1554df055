"""From OSError to StoreError, in one place."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from csi_slayer.errors import (
    AccessDenied,
    DescriptorsUsedUp,
    ObjectNotFound,
    StoreFull,
    StoreUnavailable,
    StoreUnsupported,
)

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise StoreErrors instead of OSErrors; ``what`` begins the message.

    A symlink or something else that is no file on the way (ELOOP, ENXIO) is as good as absent.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        text = f"{what}: {error.strerror or error}"
        if number in _ABSENT:
            raise ObjectNotFound(f"{what}: there is no such object") from error
        if number in _DENIED:
            raise AccessDenied(f"{text}: check the directory's owner and mode") from error
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{text}: the store's disk is full") from error
        if number in (errno.ENAMETOOLONG, errno.EINVAL):
            raise StoreUnsupported(text) from error
        if DescriptorsUsedUp.is_meant_by(error):
            raise DescriptorsUsedUp(text) from error
        raise StoreUnavailable(text) from error
