"""What is cached of a file stays of use when the file gets another name, or other attributes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import TestMount, wait_for

pytestmark = pytest.mark.integration

SIZES = {"small": 10_000, "large": (3 << 20) + 7}


def misses(mount: TestMount) -> int:
    return int(mount.ask_status()["counters"]["cache_miss_bytes"])


def bodies() -> dict[str, bytes]:
    return {name: name.encode() * (size // len(name)) for name, size in SIZES.items()}


def read_anew(path: Path) -> bytes:
    """Not from the kernel's pages of the mounted file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


@pytest.mark.parametrize("held", [False, True], ids=["closed", "open"])
def test_a_file_that_was_written_here_and_renamed(
    make_mount: MakeMount, capabilities: list[str], held: bool
) -> None:
    """As programs do that write a file under another name first."""
    mount = make_mount(options=capabilities).mount()
    root = mount.root
    for name, body in bodies().items():
        (root / f"{name}.tmp").write_bytes(body)
        assert (root / f"{name}.tmp").read_bytes() == body
    reader = (root / "large.tmp").open("rb") if held else None
    for name in SIZES:
        (root / f"{name}.tmp").rename(root / name)
    mount.wait_idle()
    if reader is not None:
        assert reader.read(4096) == bodies()["large"][:4096]
        reader.close()
        wait_for(lambda: mount.ask_status()["open_files"] == 0)
    for name, body in bodies().items():
        assert read_anew(root / name) == body
    assert misses(mount) == 0


def test_files_in_a_directory_that_is_renamed_and_files_that_were_fetched(
    make_mount: MakeMount, objects: Path, capabilities: list[str]
) -> None:
    (objects / "d/below").mkdir(parents=True)
    for name, body in bodies().items():
        (objects / "d/below" / name).write_bytes(body)
    mount = make_mount(options=[*capabilities, "volume.attributes=posix"]).mount()
    root = mount.root
    for name, body in bodies().items():
        assert (root / "d/below" / name).read_bytes() == body
    fetched = misses(mount)
    (root / "d").rename(root / "e")
    mount.wait_idle()
    for name in SIZES:
        (root / "e/below" / name).chmod(0o600)
    mount.wait_idle()
    for name, body in bodies().items():
        assert read_anew(root / "e/below" / name) == body
    assert misses(mount) == fetched
