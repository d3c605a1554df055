"""When written files are in the bucket.

Column for column the same is measured: a file system whose close waits for the upload must have
everything in the bucket when the writer ends; for one whose close does not wait, the clock runs on
until the bucket has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bench.errors import BenchError
from bench.load import Work
from bench.rows import LOCAL
from bench.targets.base import Target

_TIMEOUT = 300.0
_POLL = 0.005


def until_uploaded(target: Target, work: Work, arrived: Callable[[], bool]) -> Work:
    """``work`` with the time until ``arrived``. Raises BenchError if close returned too early."""
    if target.name == LOCAL:
        return work
    if target.uploads_at_close:
        if not arrived():
            raise BenchError("close returned before the bucket had everything")
        return work
    started = time.perf_counter()
    while not arrived():
        if time.perf_counter() - started > _TIMEOUT:
            raise BenchError(f"not in the bucket {_TIMEOUT:.0f} s after close")
        time.sleep(_POLL)
    return Work(work.operations, work.bytes, work.seconds + time.perf_counter() - started)
