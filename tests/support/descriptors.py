"""A process that has as many files open as it may (RLIMIT_NOFILE)."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator


@contextlib.contextmanager
def none_left(but: int = 0) -> Iterator[None]:
    """No new descriptor can be had, ``but`` so many: all others below the limit are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = os.open("/dev/null", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (first + 1 + but, hard))
    taken = [first]
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(first))
        for _ in range(but):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
