"""A load that checks itself: ``python3 load.py DIRECTORY SEED``, until SIGTERM.

Threads read and write in files that stay open, append to another, replace files durably, make,
rename and remove names. What every file must hold is kept in memory. Any error and any wrong byte
ends it with a traceback and status 1. Each half second it prints, as JSON, how many operations of
each kind were done and the slowest; at the end, what every file must hold (path to sha256).

Standard library only: it runs in a pod with nothing but Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

PERIOD = 0.5
OPEN_FILES = 2
SIZE = 4 << 20
"""Bytes of each file that stays open."""
PACE = 0.01
"""Seconds between bursts: the load is to leave the machine to others."""
BURST = 20
LONGEST_LOG = 16 << 20
KINDS = ("open files", "fsync and rename", "names")

Body = Callable[[random.Random], None]


class Load:
    """One run."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.seed = seed
        self.stop = threading.Event()
        self.failed = threading.Event()
        self.counts = dict.fromkeys(KINDS, 0)
        self.slowest = dict.fromkeys(KINDS, 0.0)
        self.lock = threading.Lock()
        self.expected: dict[str, str] = {}

    def run(self) -> int:
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        bodies: list[Body] = [self.open_file(n) for n in range(OPEN_FILES)]
        bodies += [self.append, self.replace, self.names]
        threads = [
            threading.Thread(target=self._guard, args=(body, random.Random(self.seed + i)))
            for i, body in enumerate(bodies)
        ]
        for thread in threads:
            thread.daemon = True  # one that waits for S3 must not keep a failure from being told
            thread.start()
        began = time.monotonic()
        while any(thread.is_alive() for thread in threads) and not self.failed.is_set():
            time.sleep(PERIOD)
            self._report(time.monotonic() - began)
        if self.failed.is_set():
            return 1
        self._check_all()
        say({"done": True, "files": self.expected})
        return 0

    def _guard(self, body: Body, rng: random.Random) -> None:
        try:
            body(rng)
        except BaseException:
            traceback.print_exc()
            self.failed.set()

    @contextlib.contextmanager
    def timed(self, kind: str, operations: int = 1) -> Iterator[None]:
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        with self.lock:
            self.counts[kind] += operations
            self.slowest[kind] = max(self.slowest[kind], took)

    def _report(self, since: float) -> None:
        with self.lock:
            counts, self.counts = self.counts, dict.fromkeys(KINDS, 0)
            slowest, self.slowest = self.slowest, dict.fromkeys(KINDS, 0.0)
        line = {"since": round(since, 2), "clock": time.time(), "operations": counts}
        say(line | {"slowest_ms": {kind: round(took * 1e3, 1) for kind, took in slowest.items()}})

    def going(self) -> bool:
        return not self.stop.is_set() and not self.failed.is_set()

    def _expect(self, path: Path, content: bytes | bytearray) -> None:
        with self.lock:
            name = str(path.relative_to(self.root))
            self.expected[name] = hashlib.sha256(content).hexdigest()

    def open_file(self, number: int) -> Body:
        """Random reads and writes in a file that is opened once."""

        def body(rng: random.Random) -> None:
            path = self.root / f"open-{number}"
            model = bytearray(rng.randbytes(SIZE))
            path.write_bytes(model)
            with path.open("r+b", buffering=0) as file:
                while self.going():
                    with self.timed("open files", BURST):
                        for _ in range(BURST // 2):
                            self._write_and_read(file.fileno(), model, rng)
                    time.sleep(PACE)
                assert os.pread(file.fileno(), SIZE, 0) == model, f"{path.name} differs"
            self._expect(path, model)

        return body

    @staticmethod
    def _write_and_read(fd: int, model: bytearray, rng: random.Random) -> None:
        place, length = rng.randrange(SIZE - 4096), rng.randrange(1, 4096)
        data = rng.randbytes(length)
        assert os.pwrite(fd, data, place) == length
        model[place : place + length] = data
        place, length = rng.randrange(SIZE - 4096), rng.randrange(1, 4096)
        found = os.pread(fd, length, place)
        assert found == model[place : place + length], f"wrong bytes at {place}"

    def append(self, rng: random.Random) -> None:
        """A log that is opened once and grows, read back through the same descriptor."""
        path = self.root / "log"
        content = bytearray()
        with path.open("a+b", buffering=0) as file:
            while self.going() and len(content) < LONGEST_LOG:
                line = rng.randbytes(rng.randrange(50, 200)).hex().encode() + b"\n"
                with self.timed("open files", 2):
                    assert file.write(line) == len(line)
                    content += line
                    place = rng.randrange(len(content))
                    found = os.pread(file.fileno(), 500, place)
                    assert found == content[place : place + 500], (
                        f"wrong bytes of the log at {place}"
                    )
                time.sleep(PACE)
        self._expect(path, content)

    def replace(self, rng: random.Random) -> None:
        """Durable replacement, as databases and editors do: write, fsync, rename, read again."""
        base = self.root / "durable"
        base.mkdir()
        content: dict[Path, bytes] = {}
        while self.going():
            path = base / f"f{rng.randrange(8)}"
            data = rng.randbytes(rng.randrange(1, 100_000))
            with self.timed("fsync and rename"):
                partial = base / "partial"
                with partial.open("wb", buffering=0) as file:
                    assert file.write(data) == len(data)
                    os.fsync(file.fileno())
                partial.rename(path)
                content[path] = data
            path = rng.choice(list(content))
            assert path.read_bytes() == content[path], f"{path.name} differs"
            time.sleep(PACE)
        for path, data in content.items():
            self._expect(path, data)

    def names(self, rng: random.Random) -> None:
        """Operations that must be done exactly once: a second time they would fail."""
        base = self.root / "names"
        base.mkdir()
        count = 0
        while self.going():
            count += 1
            directory = base / f"d{count}"
            with self.timed("names", 6):
                directory.mkdir()
                os.close(os.open(directory / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                (directory / "x").rename(directory / "y")
                found = os.listdir(directory)
                assert found == ["y"], (count, found)
                os.unlink(directory / "y")
                directory.rmdir()
            time.sleep(PACE)
        left = [name for _, names, files in os.walk(base) for name in names + files]
        assert left == [], f"of {count} directories, removed names are there: {left}"

    def _check_all(self) -> None:
        found = {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        }
        assert found == self.expected, (found, self.expected)


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    status = Load(Path(sys.argv[1]), int(sys.argv[2])).run()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
