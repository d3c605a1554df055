"""What is fetched for a reader, and what is not."""

from __future__ import annotations

import json
import mmap
import os
import signal
from pathlib import Path

import pytest

from csi_slayer.scheduling.whole import LARGE
from tests.integration.mount.conftest import MakeMount
from tests.integration.mount.test_faults_disk import used
from tests.support.mounts import slayer, wait_for

MIB = 1 << 20
SIZE = 64 * MIB
READ = 4 * MIB

KERNEL = 3 * MIB
"""The kernel reads ahead by itself, and does not know of ``volume.prefetch``."""


@pytest.mark.integration
@pytest.mark.parametrize("prefetch", [True, False])
def test_a_sequential_reader_gets_what_it_asks_for(make_mount: MakeMount, prefetch: bool) -> None:
    mount = make_mount(options=[f"volume.prefetch={str(prefetch).lower()}"])
    data = os.urandom(SIZE)
    with open(mount.url.removeprefix("file://") + "/f", "wb") as file:
        file.write(data)
    mount.mount()
    fd = os.open(mount.root / "f", os.O_RDONLY)
    for offset in range(0, READ, MIB // 4):
        assert os.pread(fd, MIB // 4, offset) == data[offset : offset + MIB // 4]
    if prefetch:
        # Before the file is closed, which ends it.
        segments = mount.cache / "segments"
        wait_for(lambda: used(segments) > READ + KERNEL + MIB, what="what was fetched ahead")
    os.close(fd)
    mount.umount()
    usage = json.loads(slayer("cache", "usage", "--cache-dir", str(mount.cache), "--json").stdout)
    assert usage["used"] >= READ
    assert (usage["used"] <= READ + KERNEL) != prefetch


@pytest.mark.integration
@pytest.mark.parametrize("read_only", [True, False], ids=["read-only", "writable"])
def test_an_open_that_waits_is_read_without_the_worker(
    make_mount: MakeMount, capabilities: list[str], objects: Path, read_only: bool
) -> None:
    data = os.urandom(SIZE)
    (objects / "f").write_bytes(data)
    options = [*capabilities, "volume.open_wait=1m", f"volume.read_only={str(read_only).lower()}"]
    options.append("volume.metadata_ttl=1h")  # mmap asks for the size, which the kernel knows then
    mount = make_mount(options=options).mount()
    with (mount.root / "f").open("rb", buffering=0) as file:
        if "passthrough" in mount.status()["capabilities"]:
            pid = mount.worker_pid()
            os.kill(pid, signal.SIGSTOP)
            try:
                with mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ) as view:
                    assert view[SIZE - MIB :] == data[SIZE - MIB :]
                assert os.pread(file.fileno(), SIZE, 0) == data  # readall asks for its size
            finally:
                os.kill(pid, signal.SIGCONT)
        else:
            assert file.readall() == data


@pytest.mark.integration
def test_so_is_a_large_file_if_nobody_said_how_long_to_wait(
    make_mount: MakeMount, capabilities: list[str], objects: Path
) -> None:
    tail = os.urandom(MIB)
    for number in range(8):
        with (objects / f"{number}").open("wb") as file:
            file.truncate(LARGE)
            os.pwrite(file.fileno(), tail, LARGE)
    mount = make_mount(options=capabilities).mount()
    numbers = iter(range(8))

    def is_past_the_worker(*, whole: bool) -> bool:
        path = mount.root / str(next(numbers))
        before = mount.status()["counters"]["passthrough_opens"]
        with path.open("rb", buffering=0) as file:
            while whole and file.read(MIB):
                pass
            assert os.pread(file.fileno(), MIB, LARGE) == tail
        found = mount.status()["counters"]["passthrough_opens"] > before
        path.unlink()
        return found

    # Where the machine is busy one is not waited for, and the next one is.
    found = any(is_past_the_worker(whole=True) for _ in range(5))
    assert found == ("passthrough" in mount.status()["capabilities"])
    # Who reads the end of one only, at once, has the next one not waited for.
    assert not all(is_past_the_worker(whole=False) for _ in range(3))
