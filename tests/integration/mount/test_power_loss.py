"""The power goes: what is on the cache's disk at that moment is all that there is afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.test_faults import content
from tests.support.mounts import TestMount, wait_for

pytestmark = pytest.mark.integration

MIB = 1 << 20


class Disk:
    """An ext4 of its own, of which a copy is made as the device has it, page cache or not."""

    def __init__(self, base: Path) -> None:
        self.path = base / "disk"
        self.path.mkdir()
        self._image = base / "image"
        with self._image.open("wb") as file:
            file.truncate(512 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-F", self._image], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True)

    def lose_power(self, volume: TestMount) -> None:
        """Kill the volume, and go on with what the device had before anything could end well."""
        entry = volume.entry()
        copy = self._image.with_name("copy")
        subprocess.run(["cp", "--sparse=always", self._image, copy], check=True)
        pids = [entry["supervisor"], volume.worker_pid()]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        subprocess.run(["umount", "-l", volume.root], check=True)
        for pid in pids:
            wait_for(lambda pid=pid: not _lives(pid), what="its end")
        # Lazily: the kernel has the backing files of what programs have open.
        subprocess.run(["umount", "-l", self.path], check=True)
        copy.rename(self._image)
        self._mount()
        # Another boot, for all that the volume can know; the segments would be of this one.
        with closing(sqlite3.connect(Path(entry["state"]) / "catalog.db")) as catalog:
            changed = catalog.execute("UPDATE meta SET value = '1' WHERE name = 'boot'").rowcount
            catalog.commit()
        assert changed == 1
        shutil.rmtree(volume.cache / "segments")

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.close()


def test_what_the_store_has_survives(
    make_mount: MakeMount,
    objects: Path,
    disk: Disk,
    capabilities: list[str],
) -> None:
    """Files are opened for writing and changed by a byte, one of each size with an fsync."""
    sizes = {"small": 5_000, "medium": 3 * MIB, "large": 24 * MIB}
    was = {}
    for number, (size, length) in enumerate(sizes.items()):
        for name in ("opened", "changed", "synced"):
            was[f"{size}-{name}"] = content(length, number)
            (objects / f"{size}-{name}").write_bytes(was[f"{size}-{name}"])
    options = ["cache.capacity=400MiB", "cache.min_free=0", "volume.durability=writeback"]
    options += ["volume.hydrate_max=8MiB", *capabilities]
    mount = make_mount(cache=disk.path / "cache", options=options).mount()
    open_files = []
    for name in was:
        fd = os.open(mount.root / name, os.O_RDWR)
        open_files.append(fd)
        if not name.endswith("opened"):
            os.pwrite(fd, b"!", 1000)
        if name.endswith("synced"):
            os.fsync(fd)
    disk.lose_power(mount)
    for fd in open_files:
        os.close(fd)

    mount.mount()
    mount.wait_idle()
    for name, data in was.items():
        if name.endswith("synced"):
            data = data[:1000] + b"!" + data[1001:]
        assert (mount.root / name).read_bytes() == data, name
        assert (objects / name).read_bytes() == data, name
    mount.umount()
