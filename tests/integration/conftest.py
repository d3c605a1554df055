"""Places for processes that have sockets."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import mount_points


def _short_directory() -> Iterator[Path]:
    """A directory whose sockets' paths fit into what unix(7) allows; pytest's are too long."""
    path = Path(tempfile.mkdtemp(prefix="sfs-"))
    yield path
    left = mount_points(path)
    if not left:  # never into a mount
        shutil.rmtree(path)
    assert not left


short_directory = pytest.fixture(_short_directory, name="short_directory")
shared_directory = pytest.fixture(_short_directory, scope="module", name="shared_directory")
