"""A load that checks itself: ``python -m tests.support.load DIR SEED``.

It prints ``under way``, and then threads write, rename, read, append and make and remove names
below DIR until standard input ends. Any error and any wrong byte ends it with a traceback and
status 1. At the end it prints, as JSON, what every file must hold (path to sha256).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

BIG = 6 << 20


class Load:
    """One run."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.seed = seed
        self.ended = threading.Event()
        self.failed = threading.Event()
        self.operations = 0

    def going(self) -> bool:
        self.operations += 1
        return not self.ended.is_set() and not self.failed.is_set()

    def run(self) -> int:
        bodies = [self.rewrite, self.rename, self.read, self.append, self.names, self.replace]
        threads = [
            threading.Thread(target=self._guard, args=(body, random.Random(self.seed + i)))
            for i, body in enumerate(bodies)
        ]
        for thread in threads:
            thread.start()
        print("under way", flush=True)
        sys.stdin.read()
        self.ended.set()
        for thread in threads:
            thread.join()
        if self.failed.is_set():
            return 1
        expected = {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }
        print(json.dumps({"operations": self.operations, "files": expected}))
        return 0

    def _guard(self, body: Callable[[random.Random], None], rng: random.Random) -> None:
        try:
            body(rng)
        except BaseException:
            traceback.print_exc()
            self.failed.set()

    def rewrite(self, rng: random.Random) -> None:
        """Random writes into one open file, read back at once and at the end."""
        model = bytearray(1 << 20)
        path = self.root / "rewrite"
        path.write_bytes(model)
        while self.going():
            with path.open("r+b", buffering=0) as file:
                for _ in range(rng.randrange(1, 30)):
                    place, length = rng.randrange(len(model) - 9000), rng.randrange(1, 9000)
                    data = rng.randbytes(length)
                    assert os.pwrite(file.fileno(), data, place) == length
                    model[place : place + length] = data
                    assert os.pread(file.fileno(), length, place) == data
                if rng.random() < 0.3:
                    os.fsync(file.fileno())
            assert path.read_bytes() == model, "rewritten file differs"

    def rename(self, rng: random.Random) -> None:
        """Files move between two directories; each always has its own content."""
        dirs = [self.root / "left", self.root / "right"]
        for directory in dirs:
            directory.mkdir()
        where = {}
        for i in range(12):
            where[i] = dirs[0]
            (dirs[0] / f"r{i}").write_text(f"file {i}")
        while self.going():
            i = rng.randrange(12)
            target = rng.choice(dirs)
            (where[i] / f"r{i}").rename(target / f"r{i}")
            where[i] = target
            assert (target / f"r{i}").read_text() == f"file {i}"
            if rng.random() < 0.1:
                seen = {name for directory in dirs for name in os.listdir(directory)}
                assert seen == {f"r{k}" for k in range(12)}, seen

    def read(self, rng: random.Random) -> None:
        """Random reads of a big file that was there before."""
        data = random.Random(99).randbytes(BIG)
        path = self.root / "big"
        while self.going():
            with path.open("rb", buffering=0) as file:
                for _ in range(50):
                    place, length = rng.randrange(BIG), rng.randrange(1, 200_000)
                    got = os.pread(file.fileno(), length, place)
                    assert got == data[place : place + length], f"wrong bytes at {place}"

    def append(self, rng: random.Random) -> None:
        """A log that only grows."""
        path = self.root / "log"
        lines = 0
        while self.going():
            with path.open("a") as file:
                for _ in range(rng.randrange(1, 10)):
                    file.write(f"line {lines}\n")
                    lines += 1
            found = path.read_text().splitlines()
            assert found == [f"line {i}" for i in range(lines)], "the log differs"

    def names(self, rng: random.Random) -> None:
        """Operations that must be done exactly once: a second time they would fail."""
        base = self.root / "names"
        base.mkdir()
        count = 0
        while self.going():
            count += 1
            directory = base / f"d{count}"
            directory.mkdir()
            os.close(os.open(directory / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.symlink("x", directory / "link")
            (directory / "x").rename(directory / "y")
            os.unlink(directory / "link")
            found = os.listdir(directory)
            assert found == ["y"], (count, found, os.listdir(directory))
            os.unlink(directory / "y")
            directory.rmdir()

    def replace(self, rng: random.Random) -> None:
        """Atomic replacement by rename, as editors do, with an open reader of the old version."""
        path = self.root / "config"
        path.write_text("version 0")
        version = 0
        while self.going():
            with path.open("rb", buffering=0) as old:
                version += 1
                (self.root / "config.new").write_text(f"version {version}")
                (self.root / "config.new").rename(path)
                assert old.read() == f"version {version - 1}".encode()
            assert path.read_text() == f"version {version}"


def big_file() -> bytes:
    """The content that ``read`` expects in DIR/big."""
    return random.Random(99).randbytes(BIG)


if __name__ == "__main__":
    sys.exit(Load(Path(sys.argv[1]), int(sys.argv[2])).run())
