"""What ``ls`` shows of names that others add and remove, whatever the kernel keeps of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MODES, MakeMount
from tests.support.mounts import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.mark.parametrize("mode", ["all", "none"])
def test_ls_shows_what_stat_has_found(make_mount: MakeMount, objects: Path, mode: str) -> None:
    """The look-up lists the directory: what it found is not to be missed by who lists it next."""
    (objects / "a").write_bytes(b"a")
    options = ["volume.metadata_ttl=3s", "volume.negative_ttl=0s", *MODES[mode]]
    root = make_mount(options=options).mount().root
    names = ["a"]
    for number in range(3):
        for _ in range(2):  # the second time the kernel has them
            assert sorted(os.listdir(root)) == names
        new = f"b{number}"
        (objects / new).write_bytes(b"b")
        wait_for(lambda new=new: (root / new).exists())
        names = [*names, new]
        assert sorted(os.listdir(root)) == names
