"""What is fetched for a reader, and what is not."""

from __future__ import annotations

import json
import mmap
import os
import signal
from pathlib import Path

import pytest

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
