"""A worker may have as many files open as its process is allowed to."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import resource
from csi_slayer.worker.__main__ import _allow_open_files
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (128, min(hard, 5000)))
_allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_is_raised() -> None:
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    soft, hard = map(int, said.stdout.split())
    assert soft == hard > 128
