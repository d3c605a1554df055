"""Another process that uses the cache, told what to do through a pipe."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from csi_slayer.cache import BLOCK, Cache, Governor, Segment
from tests.unit.cache.helpers import content, key_of

PATIENCE = 60.0


class Actions:
    """What a peer can be told; runs in its process."""

    def __init__(self, root: Path, capacity: int) -> None:
        self.cache = Cache(root, capacity)
        self.held: dict[str, Segment] = {}

    def store(self, name: str, size: int) -> bool:
        return self.cache.store_small(key_of(name), content(name, size))

    def store_many(self, prefix: str, count: int, size: int) -> int:
        """How many were stored."""
        return sum(self.store(f"{prefix}{number}", size) for number in range(count))

    def create(self, name: str, size: int) -> None:
        self.held[name] = self.cache.create(key_of(name), size)

    def hold(self, name: str, size: int) -> bool:
        segment = self.cache.find(key_of(name), size)
        if segment is not None:
            self.held[name] = segment
        return segment is not None

    def write(self, name: str, *blocks: int) -> None:
        segment = self.held[name]
        data = content(name, segment.size)
        for block in blocks:
            segment.write_block(block * BLOCK, data[block * BLOCK : (block + 1) * BLOCK])

    def missing(self, name: str) -> list[tuple[int, int]]:
        segment = self.held[name]
        return segment.missing(0, segment.size)

    def is_complete(self, name: str) -> bool:
        return self.held[name].complete

    def is_good(self, name: str) -> bool:
        """Whether the whole file can be read and has the right bytes."""
        segment = self.held[name]
        return os.pread(segment.fd, segment.size, 0) == content(name, segment.size)

    def drop(self, name: str) -> None:
        self.held.pop(name).close()

    def detach_all(self, names: list[str], size: int) -> list[str]:
        """Names of those that could be taken."""
        taken = []
        for name in names:
            segment = self.cache.find(key_of(name), size)
            if segment is None:
                continue
            stage = self.cache.staging("v").reserve()
            fd = segment.detach(str(stage.path))
            if fd is None:
                segment.close()
                continue
            data = os.pread(fd, size, 0)
            assert data == content(name, size), "took a file that somebody wrote to"
            os.pwrite(fd, b"dirty" + name.encode(), 0)
            assert os.pread(fd, 5, 0) == b"dirty"
            os.close(fd)
            taken.append(name)
        return taken

    def take_over(self) -> bool:
        self.governor = Governor(self.cache)
        return self.governor.take_over()

    def evict(self, target: int) -> int:
        return self.governor.evict(target).segments

    def used(self) -> int:
        return self.cache.usage().used


def _serve(root: Path, capacity: int, pipe: Connection) -> None:
    actions = Actions(root, capacity)
    while True:
        name, arguments = pipe.recv()
        try:
            pipe.send((getattr(actions, name)(*arguments), None))
        except Exception as error:
            pipe.send((None, f"{type(error).__name__}: {error}"))


class Peer:
    """Starts the process; ``peer.do("hold", ...)`` waits for the answer, ``begin`` does not."""

    def __init__(self, root: Path, capacity: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(root, capacity, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def do(self, action: str, *arguments: Any) -> Any:
        return self.begin(action, *arguments)()

    def begin(self, action: str, *arguments: Any) -> Callable[[], Any]:
        self._pipe.send((action, arguments))

        def answer() -> Any:
            assert self._pipe.poll(PATIENCE), f"no answer to {action}"
            result, error = self._pipe.recv()
            assert error is None, error
            return result

        return answer

    def kill(self) -> None:
        """As ``kill -9`` would."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
