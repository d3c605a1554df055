"""What the kernel keeps of a cold file that was read in sequence, where memory is dear."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
from pathlib import Path

import pytest

from csi_slayer.scheduling.behind import KEEP, STEP
from tests.integration.mount.conftest import MakeMount
from tests.support.mounts import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIB = 1 << 20
SIZE = 96 * MIB + 4097
LEFT = KEEP + 2 * STEP
"""Most bytes that dropping leaves, of which the last two steps may still be to come. What is not
dropped is more, but not all of the file: the kernel may take pages away itself."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def resident(file: int) -> int:
    """Bytes of the file that are in its page cache."""
    # A writable private mapping: only of one does ctypes tell the address. No page is touched.
    with mmap.mmap(
        file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    ) as memory:
        pages = (ctypes.c_ubyte * -(-SIZE // mmap.PAGESIZE))()
        at = ctypes.c_char.from_buffer(memory)
        if _libc.mincore(ctypes.addressof(at), SIZE, pages):
            raise OSError(ctypes.get_errno(), "mincore")
        del at
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


@pytest.mark.parametrize(
    ("options", "dropped"),
    [
        (["cache.direct=always"], True),
        (["cache.direct=never"], False),
        # Nothing else would have the pages in memory when the file is read again.
        (["cache.direct=always", "fuse.disable=passthrough"], False),
    ],
    ids=["dear", "cheap", "served"],
)
def test_pages_far_behind_the_reader(
    make_mount: MakeMount, objects: Path, options: list[str], dropped: bool
) -> None:
    data = os.urandom(SIZE)
    (objects / "cold").write_bytes(data)
    mount = make_mount(options=options).mount()
    with (mount.root / "cold").open("rb", buffering=0) as file:
        fd = file.fileno()
        for offset in range(0, SIZE, MIB):
            assert os.pread(fd, MIB, offset) == data[offset : offset + MIB]
        if dropped:
            wait_for(lambda: resident(fd) <= LEFT, what="pages to go")
            assert resident(fd) >= KEEP // 2, "what came last stays"
        else:
            assert resident(fd) > LEFT
        # A second time: from the cache, and the pages stay.
        assert hashlib.sha256(os.pread(fd, SIZE, 0)).digest() == hashlib.sha256(data).digest()
        assert resident(fd) > LEFT
    assert (mount.root / "cold").read_bytes() == data


def test_a_mapping_is_read_again_and_again(make_mount: MakeMount, objects: Path) -> None:
    """Pages that are dropped while they are mapped come back."""
    data = os.urandom(SIZE)
    (objects / "cold").write_bytes(data)
    mount = make_mount(options=["cache.direct=always"]).mount()
    with (
        (mount.root / "cold").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory,
    ):
        for _ in range(3):
            for offset in range(0, SIZE, MIB):
                assert memory[offset : offset + MIB] == data[offset : offset + MIB]
        assert resident(file.fileno()) > LEFT
