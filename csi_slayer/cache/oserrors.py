"""OS errors of the cache directory as errors of ours."""

from __future__ import annotations

import errno

from csi_slayer.errors import CacheError, CacheFull


def translated(error: OSError, what: str) -> CacheError:
    """CacheFull if the disk (or a quota on it) is full, else CacheError with the reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CacheFull(f"{what}: {error.strerror}")
    return CacheError(f"{what}: {error.strerror}")
