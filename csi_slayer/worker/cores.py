"""No core dumps of processes that hold credentials and what users have written.

Standard library only: supervisors use it, and are to stay small.
"""

from __future__ import annotations

import resource
from typing import Final

NO_DUMP: Final = 1
"""Bytes. Too little for a file; and where ``core_pattern`` is a program (systemd-coredump, apport),
the one limit at which the kernel does not start it: 0 would not do (core(5); fs/coredump.c)."""


def forbid_core_dumps() -> None:
    """For this process and all that it will start."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = NO_DUMP if hard == resource.RLIM_INFINITY else min(NO_DUMP, hard)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
