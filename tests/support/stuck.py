"""Invalidations that wait in the kernel for what only a worker answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Self

from tests.support.faultproxy import FaultProxy
from tests.support.faults import Blackhole
from tests.support.mounts import wait_for
from tests.support.servers import S3Server

SIZE = 8 << 20
"""Bytes of a file: too many to be fetched by opening it."""

WRITE = """
import os, sys, threading
from tests.support.mappings import Memory
source = os.open(sys.argv[1], os.O_RDONLY)
target = os.open(sys.argv[2], os.O_WRONLY)
memory = Memory(source, 4096, writable=False)
print("goes on", flush=True)
if "close" in sys.argv[3:]:
    threading.Timer(0.5, os.close, (os.dup(target),)).start()
sys.exit(memory.write_to(target) != 4096)
"""
"""Writes from the mapping of one file into another; a descriptor of the other is closed meanwhile,
if that is wanted."""

READ = "import os, sys; sys.stdout.buffer.write(os.read(os.open(sys.argv[1], os.O_RDONLY), 4096))"
RMDIR = "import os, sys; os.rmdir(sys.argv[1])"
EMPTY = "import os, sys; os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_TRUNC))"
STAT = "import os, sys; os.stat(sys.argv[1])"


class Slow:
    """A bucket, a proxy in front of it that can hold answers back, and programs that wait. The
    bucket's volume has to be unmounted before it is left."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.bucket = server.create_bucket()
        self.proxy = FaultProxy(server.endpoint)
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.kill()
            program.communicate()
        self.proxy.close()
        self.server.admin.delete_bucket(self.bucket)

    def put(self, key: str, body: bytes) -> None:
        self.server.admin.put(self.bucket, key, body)

    def run(self, code: str, *args: Path | str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._programs.append(program)
        return program

    def read(self, path: Path) -> tuple[subprocess.Popen[bytes], bytes]:
        """A program whose read of a file waits for the store, while somebody finds that the file
        is another one now; returns the program and the new bytes."""
        self.put(path.name, bytes(SIZE))
        assert path.stat().st_size == SIZE
        hole = self.proxy.inject(Blackhole(), kind="GetObject", path=f"/{path.name}")
        reader = self.run(READ, path)
        wait_for(lambda: hole.hits, what="the read")
        new = os.urandom(SIZE)
        self.put(path.name, new)
        self.run(STAT, path).wait(30)
        return reader, new

    def lock(self, directory: Path) -> tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]:
        """A program that removes a directory below this one, of which the store is asked, and so
        holds its lock in the kernel; and one that finds a name in it gone, so that the kernel's is
        to go. ``directory`` is to be made in the bucket's root; its names are known at once."""
        self.put(f"{directory.name}/gone", b"x")
        self.put(f"{directory.name}/sub/", b"")
        assert sorted(os.listdir(directory)) == ["gone", "sub"]
        assert (directory / "gone").stat().st_size == 1
        assert (directory / "sub").is_dir()
        hole = self.proxy.inject(Blackhole(), path=f"prefix={directory.name}(%2F|/)sub")
        remover = self.run(RMDIR, directory / "sub")
        wait_for(lambda: hole.hits, what="the removal")
        self.server.admin.delete(self.bucket, f"{directory.name}/gone")
        return remover, self.run(STAT, directory / "gone")


def waits_for_ever(pid: int) -> bool:
    """Whether the process's thread for invalidations waits in a way that no signal ends."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ends
            alone = len(os.listdir(task / "fd")) == 1
            if alone and (task / "stat").read_text().rpartition(") ")[2][:1] == "D":
                return True
    return False


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def died(err: bytes) -> bool:
    """Whether a program says that its mount is gone, as those of libfuse go with their worker."""
    return b"endpoint is not connected" in err or b"caused connection abort" in err
